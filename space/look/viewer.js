// <point-view src="a.glb" label="..." cameras="...">: points and triangles of our own GLB files, drawn with WebGL when something
// changes and not otherwise. Drag or arrow keys turn, shift + drag moves, wheel, two fingers or + and - zoom, 0 goes back; the
// buttons do the same. One finger up or down scrolls the page: a picture as wide as a telephone would be a trap otherwise.
// `cameras` is JSON: "field", the tangent of half the vertical field of view, and "poses", of each frame 12 numbers in the GLB's
// axes: the camera's right, up and back, and where it stands.
(() => {
  const VERTEX = `#version 300 es
    in vec3 position; in vec4 color; uniform mat4 view; uniform float pointSize; out vec3 shade;
    void main() {
      gl_Position = view * vec4(position, 1.0);
      gl_PointSize = clamp(pointSize / gl_Position.w, 1.5, 24.0);
      shade = pow(color.rgb, vec3(1.0 / 2.2));  // glTF colours are linear light
    }`;
  const FRAGMENT = `#version 300 es
    precision mediump float; in vec3 shade; out vec4 ink; void main() { ink = vec4(shade, 1.0); }`;
  const ARRAYS = { 5126: Float32Array, 5123: Uint16Array, 5125: Uint32Array };
  const WIDTHS = { SCALAR: 1, VEC3: 3, VEC4: 4 };
  const FIELD = Math.tan((25 * Math.PI) / 180);  // half of the vertical field of view
  const FLIGHT_FRAMES_A_SECOND = 5;
  const HINTS = { fine: "drag or arrows: turn · wheel or + −: zoom", coarse: "swipe sideways: turn · two fingers: zoom" };
  const BUTTONS = [  // name, what is on it, what it is called
    ["nearer", "+", "Zoom in"], ["farther", "−", "Zoom out"], ["reset", "Reset", "Reset the view"],
    ["cameras", "Cameras", "Cameras shown"], ["fly", "Fly", "Fly along the camera path"], ["full", "Full screen", "Full screen"],
  ];

  function readGlb(bytes) {
    const words = new DataView(bytes);
    if (words.getUint32(0, true) !== 0x46546c67) throw new Error("no GLB file");
    const length = words.getUint32(12, true);
    const json = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 20, length)));
    const start = 20 + length + 8;
    const array = (index) => {
      const { bufferView, componentType, count, type } = json.accessors[index];
      return new ARRAYS[componentType](bytes.slice(start + json.bufferViews[bufferView].byteOffset), 0, count * WIDTHS[type]);
    };
    return json.meshes.map(({ primitives: [{ attributes, indices, mode }] }) => ({
      mode,
      positions: array(attributes.POSITION),
      colors: array(attributes.COLOR_0),
      indices: indices === undefined ? null : array(indices),
    }));
  }

  function multiply(a, b) {  // 4x4, column by column
    return a.map((_, i) => [0, 1, 2, 3].reduce((sum, k) => sum + a[k * 4 + (i % 4)] * b[(i >> 2) * 4 + k], 0));
  }

  function cross(a, b) {
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  }

  function inner(a, b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  }

  function unit(a) {
    const length = Math.hypot(...a);
    return a.map((value) => value / length);
  }

  class PointView extends HTMLElement {
    static observedAttributes = ["src"];

    connectedCallback() {
      this.open();
    }

    disconnectedCallback() {
      this.close();
    }

    attributeChangedCallback(_, before) {
      // Gradio does not replace this element by the next result's: it changes the attributes and then removes what is inside.
      if (before !== null && this.isConnected) queueMicrotask(() => { this.close(); this.open(); });
    }

    open() {
      const buttons = BUTTONS.map(([name, text, label]) => `<button type="button" name="${name}" aria-label="${label}">${text}</button>`);
      // "application": a screen reader leaves the arrow keys to the canvas.
      this.innerHTML = `<canvas tabindex="0" role="application" aria-roledescription="3D view"></canvas><p></p>
        <div role="group" aria-label="3D view" hidden>${buttons.join("")}
        <label>Point size <input type="range" min="0.3" max="3" step="0.1" value="1"></label></div>`;
      const canvas = (this.canvas = this.querySelector("canvas"));
      canvas.setAttribute("aria-label", this.getAttribute("label"));
      this.gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true });
      if (!this.gl) return this.say("This browser shows no 3D here; download the GLB below instead.");
      this.say(HINTS[matchMedia("(pointer: coarse)").matches ? "coarse" : "fine"]);
      this.cameras = JSON.parse(this.getAttribute("cameras") || '{ "poses": [] }');
      Object.assign(this, { flight: null, showsCameras: true, dotSize: 1 });
      fetch(this.getAttribute("src"))
        .then((answer) => (answer.ok ? answer.arrayBuffer() : Promise.reject(new Error(answer.status))))
        .then((bytes) => this.canvas === canvas && this.show(readGlb(bytes)))  // not if the next result came meanwhile
        .catch(() => this.say("The points could not be loaded; results are kept for an hour."));
    }

    close() {
      this.resizing?.disconnect();
      cancelAnimationFrame(this.pending);
      this.flight = null;
      delete this.dataset.drawn;
      this.gl?.getExtension("WEBGL_lose_context")?.loseContext();  // browsers allow few at a time
    }

    say(text) {
      this.querySelector("p").textContent = text;
    }

    show(meshes) {
      this.frame(meshes[0].positions);
      this.listen();
      this.listenToButtons();
      this.reset();
      this.start(meshes);
      // A telephone that was put away, or a graphics driver that was restarted, takes everything that had been uploaded.
      this.canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());  // else it would stay lost
      this.canvas.addEventListener("webglcontextrestored", () => { this.start(meshes); this.draw(); });
      this.resizing = new ResizeObserver(() => { if (!this.moved) this.reset(); this.draw(); });
      this.resizing.observe(this.canvas);
    }

    start(meshes) {  // everything that lives in the graphics memory
      const { gl } = this;
      const program = gl.createProgram();
      for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
        const shader = gl.createShader(kind);
        gl.shaderSource(shader, source);
        gl.compileShader(shader);
        gl.attachShader(program, shader);
      }
      gl.linkProgram(program);
      gl.useProgram(program);
      gl.enable(gl.DEPTH_TEST);
      gl.clearColor(0.07, 0.08, 0.1, 1);
      this.uniform = (name) => gl.getUniformLocation(program, name);
      this.meshes = meshes.map((mesh) => this.upload(program, mesh));
    }

    upload(program, { mode, positions, colors, indices }) {
      const { gl } = this, vertices = gl.createVertexArray();
      gl.bindVertexArray(vertices);
      const fill = (target, data) => (gl.bindBuffer(target, gl.createBuffer()), gl.bufferData(target, data, gl.STATIC_DRAW));
      for (const [name, data, size, kind] of [["position", positions, 3, gl.FLOAT], ["color", colors, 4, gl.UNSIGNED_SHORT]]) {
        fill(gl.ARRAY_BUFFER, data);
        const place = gl.getAttribLocation(program, name);
        gl.enableVertexAttribArray(place);
        gl.vertexAttribPointer(place, size, kind, kind !== gl.FLOAT, 0, 0);
      }
      if (indices) fill(gl.ELEMENT_ARRAY_BUFFER, indices);
      return { mode, vertices, indexed: !!indices, count: indices ? indices.length : positions.length / 3 };
    }

    frame(points) {  // what to look at: without the outermost, so that stray points do not matter
      const count = points.length / 3, stride = Math.max(1, Math.floor(count / 5000));
      const axis = (k) => Array.from({ length: Math.floor(count / stride) }, (_, i) => points[3 * i * stride + k]).sort((a, b) => a - b);
      const sorted = [0, 1, 2].map(axis), at = (share) => sorted.map((values) => values[Math.floor(share * (values.length - 1))]);
      const low = at(0.05), high = at(0.95), middle = at(0.5);
      this.radius = Math.max(1e-3, Math.hypot(...high.map((value, k) => value - low[k])) / 2);
      this.spacing = (2.2 * this.radius) / Math.sqrt(count / 4);
      const scene = Array.from({ length: Math.floor(count / stride) }, (_, i) => [0, 1, 2].map((k) => points[3 * i * stride + k]));
      const places = this.cameras.poses.map((pose) => pose.slice(9));
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
      this.distance = Math.max(...z.away.map((value, i) => value + Math.max(Math.abs(x.away[i]) / wide, Math.abs(y.away[i]) / tall)));
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
      const { poses, field } = this.cameras, index = Math.min(poses.length - 2, Math.floor(frame));
      const share = Math.min(1, frame - index), mixed = poses[index].map((value, k) => value + share * (poses[index + 1][k] - value));
      const back = unit(mixed.slice(6, 9)), right = unit(cross(mixed.slice(3, 6), back));
      return { right, up: cross(back, right), back, eye: mixed.slice(9), field };
    }

    draw() {
      const { gl, canvas } = this, ratio = window.devicePixelRatio || 1;
      canvas.width = Math.max(1, canvas.clientWidth * ratio);
      canvas.height = Math.max(1, canvas.clientHeight * ratio);
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      const { right, up, back, eye, field } = this.flight === null ? this.orbit() : this.onPath(this.flight);
      const world = [0, 1, 2].flatMap((k) => [right[k], up[k], back[k], 0]).concat([right, up, back].map((axis) => -inner(axis, eye)), 1);
      const near = this.radius / 50, far = this.radius * 50;
      const lens = [canvas.height / canvas.width / field, 0, 0, 0, 0, 1 / field, 0, 0];
      lens.push(0, 0, (far + near) / (near - far), -1, 0, 0, (2 * far * near) / (near - far), 0);
      gl.uniformMatrix4fv(this.uniform("view"), false, multiply(lens, world));
      gl.uniform1f(this.uniform("pointSize"), (this.dotSize * this.spacing * canvas.height) / field / 2);
      const shown = this.showsCameras && this.flight === null ? this.meshes : this.meshes.slice(0, 1);  // the points come first
      for (const { mode, vertices, indexed, count } of shown) {
        gl.bindVertexArray(vertices);
        if (indexed) gl.drawElements(mode, count, gl.UNSIGNED_INT, 0);
        else gl.drawArrays(mode, 0, count);
      }
      this.dataset.drawn = "yes";
    }

    change(update) {
      this.land();
      this.moved = true;
      update();
      this.pitch = Math.min(1.5, Math.max(-1.5, this.pitch));
      this.distance = Math.min(20 * this.radius, Math.max(0.05 * this.radius, this.distance));
      cancelAnimationFrame(this.pending);
      this.pending = requestAnimationFrame(() => this.draw());
    }

    move(x, y) {
      const { right, up } = this.orbit(), step = (2 * FIELD * this.distance) / this.canvas.clientHeight;
      this.target = this.target.map((value, k) => value + step * (y * up[k] - x * right[k]));
    }

    listen() {
      const { canvas } = this, held = new Map();
      const apart = () => { const [a, b] = [...held.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };
      canvas.addEventListener("pointerdown", (event) => {
        canvas.setPointerCapture(event.pointerId);
        held.set(event.pointerId, { x: event.clientX, y: event.clientY });
      });
      for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => held.delete(event.pointerId));
      canvas.addEventListener("pointermove", (event) => {
        const last = held.get(event.pointerId);
        if (!last) return;
        const before = held.size === 2 ? apart() : 0, x = event.clientX - last.x, y = event.clientY - last.y;
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
        if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        this.change(keys[event.key]);
      });
    }

    listenToButtons() {
      const group = this.querySelector("[role=group]"), button = (name) => group.querySelector(`[name=${name}]`);
      const press = (name, pressed) => button(name).setAttribute("aria-pressed", pressed);
      const actions = {
        nearer: () => this.change(() => (this.distance *= 0.8)),
        farther: () => this.change(() => (this.distance /= 0.8)),
        reset: () => this.change(() => this.reset()),
        cameras: () => this.change(() => press("cameras", (this.showsCameras = !this.showsCameras))),
        fly: () => (this.flight === null ? this.fly() : this.change(() => {})),
        full: () => (document.fullscreenElement ? document.exitFullscreen() : this.requestFullscreen()),
      };
      for (const [name, act] of Object.entries(actions)) button(name).addEventListener("click", act);
      group.querySelector("input").addEventListener("input", (event) => this.change(() => (this.dotSize = Number(event.target.value))));
      press("cameras", true);
      press("fly", false);
      button("fly").hidden = this.cameras.poses.length < 2;
      button("full").hidden = !document.fullscreenEnabled;  // not on an iPhone
      group.hidden = false;
    }

    fly() {  // from the first frame's camera to the last one's, and a moment there
      const begin = performance.now(), end = this.cameras.poses.length + 2;
      this.querySelector("[name=fly]").setAttribute("aria-pressed", true);
      const step = (now) => {
        if (this.flight === null || !this.isConnected) return;
        this.flight = Math.max(0, ((now - begin) / 1000) * FLIGHT_FRAMES_A_SECOND);
        if (this.flight > end) return this.change(() => {});
        this.draw();
        requestAnimationFrame(step);
      };
      this.flight = 0;
      requestAnimationFrame(step);
    }

    land() {
      this.flight = null;
      this.querySelector("[name=fly]").setAttribute("aria-pressed", false);
    }
  }
  customElements.define("point-view", PointView);
})();
