// <point-view>: the points and cameras of one of our GLB files, drawn with WebGL when something changes and not otherwise; see
// player.js, which gives it `data`. Drag or arrow keys turn, shift + drag moves, wheel, two fingers or + and - zoom, 0 goes back; a
// click on a camera, or Enter, looks through it; the buttons do the same. One finger up or down scrolls the page: a picture as wide
// as a telephone would be a trap otherwise.
(() => {
  const VERTEX = `#version 300 es
    in vec3 position; in vec4 color; in float frame; in float confidence;
    uniform mat4 view; uniform float pointSize, largest, glow; uniform vec3 limits; out vec3 shade;
    void main() {
      bool shown = frame >= limits.x && frame <= limits.y && confidence >= limits.z;
      gl_Position = shown ? view * vec4(position, 1.0) : vec4(2.0, 2.0, 2.0, 1.0);
      gl_PointSize = clamp(pointSize / gl_Position.w, 1.5, largest);
      shade = mix(pow(color.rgb, vec3(1.0 / 2.2)), vec3(1.0), glow);  // glTF colours are linear light
    }`;
  const FRAGMENT = `#version 300 es
    precision mediump float; in vec3 shade; out vec4 ink; void main() { ink = vec4(shade, 1.0); }`;
  const PICTURE_VERTEX = `#version 300 es
    in vec3 position; in vec2 place; uniform mat4 view; out vec2 at;
    void main() { gl_Position = view * vec4(position, 1.0); at = place; }`;
  const PICTURE_FRAGMENT = `#version 300 es
    precision mediump float; in vec2 at; uniform sampler2D sheet; out vec4 ink; void main() { ink = vec4(texture(sheet, at).rgb, 1.0); }`;
  const ARRAYS = { 5126: Float32Array, 5123: Uint16Array, 5125: Uint32Array };
  const WIDTHS = { SCALAR: 1, VEC3: 3, VEC4: 4 };
  const EVERYTHING = [-1e9, 1e9, -1e30];
  const CAMERA_INDICES = 192;  // of the twelve edges of a frustum in the mesh "cameras", eight tubes of eight triangles
  const SPARSE = 30000, SPARSE_DOT = 5;  // points in a cloud below which each is a dot of so many px, no part of a surface
  const FIELD = Math.tan((25 * Math.PI) / 180);  // half of the vertical field of view
  const FLIGHT_FRAMES_A_SECOND = 5, REACH = 26;  // px around a camera in which a click means it
  const HINTS = { fine: "drag or arrows: turn · wheel or + −: zoom · click a camera: look through it",
    coarse: "swipe sideways: turn · two fingers: zoom · tap a camera" };
  const BUTTONS = [  // name, what is on it, what it is called
    ["nearer", "+", "Zoom in"], ["farther", "−", "Zoom out"], ["reset", "Reset", "Reset the view"],
    ["cameras", "Cameras", "Cameras shown"], ["through", "Look through", "Look through the camera of this frame"],
    ["fly", "Fly", "Fly along the camera path"], ["full", "Full screen", "Full screen"],
  ];

  function readGlb(bytes) {
    const words = new DataView(bytes);
    if (words.getUint32(0, true) !== 0x46546c67) throw new Error("no GLB file");
    const length = words.getUint32(12, true);
    const json = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 20, length)));
    const start = 20 + length + 8;
    const array = (index) => {
      if (index === undefined) return null;
      const { bufferView, componentType, count, type } = json.accessors[index];
      return new ARRAYS[componentType](bytes.slice(start + json.bufferViews[bufferView].byteOffset), 0, count * WIDTHS[type]);
    };
    const meshes = json.meshes.map(({ name, primitives: [{ attributes, indices, mode }] }) => ({
      name, mode, positions: array(attributes.POSITION), colors: array(attributes.COLOR_0), indices: array(indices),
      frame: array(attributes._FRAME), confidence: array(attributes._CONFIDENCE),
    }));
    return { meshes, depth: json.scenes[0].extras.frustum_depth };
  }

  function multiply(a, b) {  // 4x4, column by column
    return a.map((_, i) => [0, 1, 2, 3].reduce((sum, k) => sum + a[k * 4 + (i % 4)] * b[(i >> 2) * 4 + k], 0));
  }

  function cross(a, b) {
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  }

  const inner = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const mix = (a, b, share) => a.map((value, k) => value + share * (b[k] - value));

  function unit(a) {
    const length = Math.hypot(...a);
    return a.map((value) => value / length);
  }

  function dots(poses) {  // a path of cameras as a dotted line
    const places = poses.map((pose) => pose.slice(9)), positions = [];
    for (let i = 0; i + 1 < places.length; i++) for (let k = 0; k < 4; k++) positions.push(...mix(places[i], places[i + 1], k / 4));
    positions.push(...places.at(-1));
    return { name: "compared", mode: 0, positions: new Float32Array(positions),
      colors: new Uint16Array((positions.length / 3) * 4).fill(65535) };
  }

  class PointView extends HTMLElement {
    connectedCallback() {
      if (!this.data) return;  // a page that was put together by hand
      const buttons = BUTTONS.map(([name, text, label]) => `<button type="button" name="${name}" aria-label="${label}">${text}</button>`);
      // "application": a screen reader leaves the arrow keys to the canvas.
      this.innerHTML = `<canvas tabindex="0" role="application" aria-roledescription="3D view"></canvas><p></p>
        <div role="group" aria-label="3D view" hidden>${buttons.join("")}
        <label>Point size <input type="range" min="0.3" max="3" step="0.1" value="1"></label></div>`;
      const canvas = (this.canvas = this.querySelector("canvas"));
      canvas.setAttribute("aria-label", this.getAttribute("label"));
      this.gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true });
      if (!this.gl) return this.say("This browser shows no 3D here; download the GLB instead.");
      this.say((this.hint = HINTS[matchMedia("(pointer: coarse)").matches ? "coarse" : "fine"]));
      this.cameras = this.data;
      Object.assign(this, { flight: null, tour: null, showsCameras: true, dotSize: 1, moment: 0, limits: EVERYTHING });
      this.known = this.cameras.poses.flatMap((pose, i) => (pose ? [i] : []));
      this.drawn = this.cameras.drawn ?? this.known;  // those in the file, of very many a choice
      const soon = window.requestIdleCallback ?? ((act) => setTimeout(act));  // first the page around it
      new Promise((done) => soon(done, { timeout: 1000 }))
        .then(() => fetch(this.getAttribute("src")))
        .then((answer) => (answer.ok ? answer.arrayBuffer() : Promise.reject(new Error(answer.status))))
        .then((bytes) => this.isConnected && this.show(readGlb(bytes)))
        .catch(() => this.say((this.hint = "The points could not be loaded; results are kept for an hour.")));
    }

    disconnectedCallback() {
      this.resizing?.disconnect();
      cancelAnimationFrame(this.pending);
      this.flight = null;
      this.gl?.getExtension("WEBGL_lose_context")?.loseContext();  // browsers allow few at a time
    }

    say(text) {
      this.querySelector("p").textContent = text;
    }

    tell(name, detail) {
      this.dispatchEvent(new CustomEvent(name, { detail }));
    }

    show({ meshes, depth }) {
      this.depth = depth;  // of the drawn frusta
      if (this.cameras.compared) meshes.push(dots(this.cameras.compared.poses));
      this.points = meshes.find(({ name }) => name === "points") ?? null;
      this.frame(this.points?.positions ?? new Float32Array(this.known.flatMap((i) => this.cameras.poses[i].slice(9))));
      this.listen();
      this.listenToButtons();
      this.reset();
      this.start(meshes);
      // A telephone that was put away, or a graphics driver that was restarted, takes everything that had been uploaded.
      this.canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());  // else it would stay lost
      this.canvas.addEventListener("webglcontextrestored", () => { this.start(meshes); this.draw(); });
      this.resizing = new ResizeObserver(() => { if (!this.moved) this.reset(); this.draw(); });
      this.resizing.observe(this.canvas);
      this.tell("ready");
    }

    start(meshes) {  // everything that lives in the graphics memory
      const { gl } = this;
      this.pictureProgram = this.program(PICTURE_VERTEX, PICTURE_FRAGMENT);
      this.meshProgram = this.program(VERTEX, FRAGMENT);
      gl.enable(gl.DEPTH_TEST);
      gl.clearColor(0.07, 0.08, 0.1, 1);
      this.meshes = meshes.map((mesh) => this.upload(mesh));
      this.quad = gl.createBuffer();
      this.hang();
    }

    program(vertex, fragment) {
      const { gl } = this, program = gl.createProgram();
      for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
        const shader = gl.createShader(kind);
        gl.shaderSource(shader, source);
        gl.compileShader(shader);
        gl.attachShader(program, shader);
      }
      gl.linkProgram(program);
      return program;
    }

    upload({ name, mode, positions, colors, indices, frame, confidence }) {
      const { gl } = this, vertices = gl.createVertexArray();
      gl.bindVertexArray(vertices);
      const fill = (target, data) => (gl.bindBuffer(target, gl.createBuffer()), gl.bufferData(target, data, gl.STATIC_DRAW));
      const parts = [["position", positions, 3, gl.FLOAT], ["color", colors, 4, gl.UNSIGNED_SHORT], ["frame", frame, 1, gl.FLOAT],
        ["confidence", confidence, 1, gl.FLOAT]];
      for (const [part, data, size, kind] of parts) {
        if (!data) continue;
        fill(gl.ARRAY_BUFFER, data);
        const place = gl.getAttribLocation(this.meshProgram, part);
        gl.enableVertexAttribArray(place);
        gl.vertexAttribPointer(place, size, kind, kind !== gl.FLOAT, 0, 0);
      }
      if (indices) fill(gl.ELEMENT_ARRAY_BUFFER, indices);
      return { name, mode, vertices, indexed: !!indices, count: indices ? indices.length : positions.length / 3 };
    }

    hang(sheet = this.sheet) {  // the pictures that stand in the frusta
      this.sheet = sheet;
      const { gl } = this;
      if (!sheet || !this.quad) return;
      gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, gl.RGB, gl.UNSIGNED_BYTE, sheet.image);
      for (const kind of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, kind, gl.LINEAR);
      this.later();
    }

    frame(points) {  // what to look at: without the outermost, so that stray points do not matter
      const count = points.length / 3, stride = Math.max(1, Math.floor(count / 5000));
      const axis = (k) => Array.from({ length: Math.floor(count / stride) }, (_, i) => points[3 * i * stride + k]).sort((a, b) => a - b);
      const sorted = [0, 1, 2].map(axis), at = (share) => sorted.map((values) => values[Math.floor(share * (values.length - 1))]);
      const low = at(0.05), high = at(0.95), middle = at(0.5);
      this.radius = Math.hypot(...high.map((value, k) => value - low[k])) / 2;
      this.radius = Math.max(this.radius, 2 * this.depth) || 1e-3;  // cameras at rest without points: as large as they are drawn
      this.spacing = (2.2 * this.radius) / Math.sqrt(count / 4);
      this.sparse = count < SPARSE;
      const scene = Array.from({ length: Math.floor(count / stride) }, (_, i) => [0, 1, 2].map((k) => points[3 * i * stride + k]));
      const places = [...this.known.map((i) => this.cameras.poses[i]), ...(this.cameras.compared?.poses ?? [])].map((pose) => pose.slice(9));
      this.shown = scene.filter((point) => point.every((value, k) => low[k] <= value && value <= high[k]))
        .concat(places.filter((place) => Math.hypot(...place.map((value, k) => value - middle[k])) < 6 * this.radius));
    }

    reset() {  // as near as points and cameras fit under the hint
      Object.assign(this, { yaw: 0.45, pitch: 0.35, moved: false });
      const axes = this.axes(), height = Math.max(1, this.canvas.clientHeight);
      const hint = Math.min(0.4, this.querySelector("p").offsetHeight / height);
      const wide = 0.92 * FIELD * Math.max(0.2, this.canvas.clientWidth / height), tall = 0.92 * FIELD * (1 - hint);
      const [x, y, z] = axes.map((axis) => {  // of each point along the axis, from the middle of all
        const along = this.shown.map((point) => inner(point, axis)), middle = (Math.min(...along) + Math.max(...along)) / 2;
        return { middle, away: along.map((value) => value - middle) };
      });
      this.distance = Math.max(1.5 * this.radius, ...z.away.map((value, i) => value + Math.max(Math.abs(x.away[i]) / wide, Math.abs(y.away[i]) / tall)));
      const centre = [x.middle, y.middle + hint * FIELD * this.distance, z.middle];
      this.target = [0, 1, 2].map((k) => axes.reduce((sum, axis, i) => sum + centre[i] * axis[k], 0));
    }

    axes() {  // right, up and back
      const [cy, sy, cp, sp] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
      return [[cy, 0, -sy], [-sy * sp, cp, -cy * sp], [sy * cp, sp, cy * cp]];
    }

    orbit() {  // the view from around the target
      const [right, up, back] = this.axes(), eye = this.target.map((value, k) => value + this.distance * back[k]);
      return { right, up, back, eye, field: FIELD };
    }

    onPath(frame) {  // the view of a camera of the clip, or from between two of them
      const { poses } = this.cameras, { known } = this;
      const next = known.findIndex((i) => i >= frame), after = known.at(next), before = known[Math.max(0, next < 0 ? known.length - 1 : next - 1)];
      const share = after > before ? Math.max(0, (frame - before) / (after - before)) : 1;
      const mixed = mix(poses[before], poses[after], share), [left, end, low, high] = mix(this.lens(before), this.lens(after), share);
      const back = unit(mixed.slice(6, 9)), right = unit(cross(mixed.slice(3, 6), back));
      // all of the picture in sight, also where the view is narrower than it
      const field = Math.max((high - low) / 2, (((end - left) / 2) * this.canvas.clientHeight) / this.canvas.clientWidth);
      return { right, up: cross(back, right), back, eye: mixed.slice(9), field, centre: [(left + end) / 2, (low + high) / 2] };
    }

    lens(frame) {  // where its picture ends: left, right, below and above, at distance 1
      const { lenses } = this.cameras;
      return lenses[frame] ?? lenses[0];
    }

    later() {
      cancelAnimationFrame(this.pending);
      this.pending = requestAnimationFrame(() => this.draw());
    }

    matrix({ right, up, back, eye, field, centre = [0, 0] }) {
      const { canvas } = this, ratio = canvas.height / canvas.width, near = this.radius / 50, far = this.radius * 50;
      const world = [0, 1, 2].flatMap((k) => [right[k], up[k], back[k], 0]).concat([right, up, back].map((axis) => -inner(axis, eye)), 1);
      const lens = [ratio / field, 0, 0, 0, 0, 1 / field, 0, 0];
      lens.push((centre[0] * ratio) / field, centre[1] / field, (far + near) / (near - far), -1, 0, 0, (2 * far * near) / (near - far), 0);
      return multiply(lens, world);
    }

    draw() {
      const { gl, canvas } = this, ratio = window.devicePixelRatio || 1;
      if (!this.meshes) return;
      canvas.width = Math.max(1, canvas.clientWidth * ratio);
      canvas.height = Math.max(1, canvas.clientHeight * ratio);
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      const seen = this.flight === null ? this.orbit() : this.onPath(this.flight), view = this.matrix(seen);
      const uniform = (name) => gl.getUniformLocation(this.meshProgram, name);
      gl.useProgram(this.meshProgram);
      gl.uniformMatrix4fv(uniform("view"), false, view);
      const size = (this.dotSize * this.spacing * canvas.height) / seen.field / 2;
      const drawsCameras = this.showsCameras && this.flight === null, lit = this.drawn.indexOf(this.moment);
      for (const mesh of this.meshes) {
        if (mesh.name !== "points" && !drawsCameras) continue;
        gl.bindVertexArray(mesh.vertices);
        gl.uniform3fv(uniform("limits"), mesh.name === "points" ? this.limits : EVERYTHING);
        gl.uniform1f(uniform("pointSize"), mesh.name === "compared" ? Math.max(size, (0.05 * this.depth * canvas.height) / seen.field) : size);
        gl.uniform1f(uniform("largest"), mesh.name === "points" && this.sparse ? SPARSE_DOT * ratio * this.dotSize : 24);
        gl.uniform1f(uniform("glow"), 0);
        if (mesh.indexed) gl.drawElements(mesh.mode, mesh.count, gl.UNSIGNED_INT, 0);
        else gl.drawArrays(mesh.mode, 0, mesh.count);
        if (mesh.name !== "cameras" || lit < 0) continue;
        gl.depthFunc(gl.ALWAYS);  // the camera of the moment, over everything
        gl.uniform1f(uniform("glow"), 0.75);
        gl.drawElements(mesh.mode, CAMERA_INDICES, gl.UNSIGNED_INT, 4 * CAMERA_INDICES * lit);
        gl.depthFunc(gl.LESS);
      }
      if (drawsCameras && lit >= 0 && this.sheet) this.drawPicture(view);
      this.dataset.drawn = "yes";
      this.dataset.frame = this.moment;
    }

    corners() {  // of the image of the camera of the moment, in triangle-strip order
      const pose = this.cameras.poses[this.moment], [left, end, low, high] = this.lens(this.moment), { depth } = this;
      const [right, up, back, eye] = [0, 3, 6, 9].map((k) => pose.slice(k, k + 3));
      return [[left, high], [end, high], [left, low], [end, low]].map(([x, y]) =>
        eye.map((value, k) => value + depth * (x * right[k] + y * up[k] - back[k])));
    }

    drawPicture(view) {
      const { gl } = this, [left, top, right, bottom] = this.sheet.box(this.moment), program = this.pictureProgram;
      const places = [[left, top], [right, top], [left, bottom], [right, bottom]];
      gl.useProgram(program);
      gl.bindVertexArray(null);
      gl.uniformMatrix4fv(gl.getUniformLocation(program, "view"), false, view);
      gl.bindBuffer(gl.ARRAY_BUFFER, this.quad);
      gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(this.corners().flatMap((corner, i) => [...corner, ...places[i]])), gl.DYNAMIC_DRAW);
      for (const [name, size, offset] of [["position", 3, 0], ["place", 2, 12]]) {
        const place = gl.getAttribLocation(program, name);
        gl.enableVertexAttribArray(place);
        gl.vertexAttribPointer(place, size, gl.FLOAT, false, 20, offset);
      }
      gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    }

    at(moment) {  // the frame of the moment
      this.moment = moment;
      if (this.gl) this.say(this.hint);  // what was said of another frame is over
      if (this.flight !== null && this.tour === null) this.flight = moment;
      if (this.meshes && this.tour === null) this.later();  // a flight draws by itself
    }

    change(update) {
      this.land();
      this.moved = true;
      update();
      this.pitch = Math.min(1.5, Math.max(-1.5, this.pitch));
      this.distance = Math.min(20 * this.radius, Math.max(0.05 * this.radius, this.distance));
      this.later();
    }

    move(x, y) {
      const { right, up } = this.orbit(), step = (2 * FIELD * this.distance) / this.canvas.clientHeight;
      this.target = this.target.map((value, k) => value + step * (y * up[k] - x * right[k]));
    }

    pick(x, y) {  // the camera at a place of the canvas in px, or undefined
      const { right, up, back, eye, field } = this.orbit(), { clientWidth, clientHeight } = this.canvas;
      const away = (place) => {
        const seen = place.map((value, k) => value - eye[k]), scale = clientHeight / 2 / (field * -inner(seen, back));
        return scale < 0 ? Infinity : Math.hypot(clientWidth / 2 + scale * inner(seen, right) - x, clientHeight / 2 - scale * inner(seen, up) - y);
      };
      const near = this.drawn.map((i) => {
        const pose = this.cameras.poses[i], apex = pose.slice(9), middle = apex.map((value, k) => value - this.depth * pose[6 + k]);
        return [Math.min(away(apex), away(middle)), i];
      }).sort((a, b) => a[0] - b[0])[0];
      return near && near[0] < REACH ? near[1] : undefined;
    }

    lookThrough(frame) {
      if (!this.cameras.poses[frame]) return this.say(`The pose of frame ${frame + 1} is not known.`);
      this.land();
      this.flight = frame;
      this.press("through", true);
      this.tell("moment", frame);
      this.later();
    }

    listen() {
      const { canvas } = this, held = new Map();
      const apart = () => { const [a, b] = [...held.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };
      let way = 0;  // px since the pointer went down
      canvas.addEventListener("pointerdown", (event) => {
        canvas.setPointerCapture(event.pointerId);
        way = held.size ? Infinity : 0;
        held.set(event.pointerId, { x: event.clientX, y: event.clientY });
      });
      canvas.addEventListener("pointercancel", (event) => held.delete(event.pointerId));
      canvas.addEventListener("pointerup", (event) => {
        held.delete(event.pointerId);
        if (way > 5 || this.flight !== null || !this.showsCameras) return;
        const box = canvas.getBoundingClientRect(), camera = this.pick(event.clientX - box.x, event.clientY - box.y);
        if (camera !== undefined) this.lookThrough(camera);
      });
      canvas.addEventListener("pointermove", (event) => {
        const last = held.get(event.pointerId);
        if (!last) return;
        const before = held.size === 2 ? apart() : 0, x = event.clientX - last.x, y = event.clientY - last.y;
        if ((way += Math.hypot(x, y)) <= 5) return;  // still a click; what it moved so far is not lost
        held.set(event.pointerId, { x: event.clientX, y: event.clientY });
        if (before) this.change(() => { this.distance *= before / Math.max(1, apart()); this.move(x / 2, y / 2); });
        else if (event.shiftKey) this.change(() => this.move(x, y));
        else this.change(() => { this.yaw -= x * 0.008; this.pitch += y * 0.008; });
      });
      // With two fingers the page would scroll as well.
      canvas.addEventListener("touchmove", (event) => event.touches.length > 1 && event.preventDefault(), { passive: false });
      canvas.addEventListener("wheel", (event) => {
        event.preventDefault();
        this.change(() => (this.distance *= Math.exp(event.deltaY * 0.001)));
      }, { passive: false });
      const keys = {
        ArrowLeft: () => (this.yaw -= 0.12), ArrowRight: () => (this.yaw += 0.12), ArrowUp: () => (this.pitch += 0.12),
        ArrowDown: () => (this.pitch -= 0.12), "+": () => (this.distance *= 0.85), "-": () => (this.distance /= 0.85), 0: () => this.reset(),
      };
      canvas.addEventListener("keydown", (event) => {
        if (event.ctrlKey || event.metaKey) return;
        if (event.key === "Enter") return this.lookThrough(this.moment);
        if (!keys[event.key]) return;
        event.preventDefault();
        this.change(keys[event.key]);
      });
    }

    press(name, pressed) {
      this.querySelector(`[name=${name}]`).setAttribute("aria-pressed", pressed);
    }

    listenToButtons() {
      const group = this.querySelector("[role=group]"), button = (name) => group.querySelector(`[name=${name}]`);
      const actions = {
        nearer: () => this.change(() => (this.distance *= 0.8)),
        farther: () => this.change(() => (this.distance /= 0.8)),
        reset: () => this.change(() => this.reset()),
        cameras: () => this.change(() => this.press("cameras", (this.showsCameras = !this.showsCameras))),
        through: () => (this.flight === null || this.tour !== null ? this.lookThrough(this.moment) : this.change(() => {})),
        fly: () => (this.tour === null ? this.fly() : this.change(() => {})),
        full: () => (document.fullscreenElement ? document.exitFullscreen() : this.closest("scene-player").requestFullscreen()),
      };
      for (const [name, act] of Object.entries(actions)) button(name).addEventListener("click", act);
      group.querySelector("input").addEventListener("input", (event) => { this.dotSize = Number(event.target.value); this.later(); });
      for (const name of ["cameras", "through", "fly"]) this.press(name, name === "cameras");
      button("fly").hidden = this.known.length < 2;
      button("full").hidden = !document.fullscreenEnabled;  // not on an iPhone
      group.hidden = false;
    }

    fly() {  // from the first frame's camera to the last one's, and a moment there; then back to where one was
      this.land();
      this.tour = this.moment;
      const begin = performance.now(), end = this.known.at(-1) + 3;
      this.press("fly", true);
      const step = (now) => {
        if (this.tour === null || !this.isConnected) return;
        this.flight = Math.max(0, ((now - begin) / 1000) * FLIGHT_FRAMES_A_SECOND);
        if (this.flight > end) return this.change(() => {});
        this.tell("moment", Math.min(Math.round(this.flight), this.cameras.poses.length - 1));
        this.draw();
        requestAnimationFrame(step);
      };
      this.flight = 0;
      requestAnimationFrame(step);
    }

    land() {
      const { tour } = this;
      Object.assign(this, { flight: null, tour: null });
      for (const name of ["through", "fly"]) this.press(name, false);
      if (tour !== null) this.tell("moment", tour);
    }
  }
  customElements.define("point-view", PointView);
})();
