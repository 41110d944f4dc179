// <point-view src="a.glb" label="...">: points and triangles of our own GLB files, drawn with WebGL when something changes and
// not otherwise. Drag or arrow keys turn, shift + drag moves, wheel, pinch or + and - zoom, 0 goes back.
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

  class PointView extends HTMLElement {
    connectedCallback() {
      this.innerHTML = `<canvas tabindex="0" role="img"></canvas><p>drag or arrows: turn · wheel or + −: zoom · 0: reset</p>`;
      this.canvas = this.firstChild;
      this.canvas.setAttribute("aria-label", this.getAttribute("label"));
      this.gl = this.canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true });
      if (!this.gl) return this.say("This browser shows no 3D here; download the GLB below instead.");
      fetch(this.getAttribute("src"))
        .then((answer) => (answer.ok ? answer.arrayBuffer() : Promise.reject(new Error(answer.status))))
        .then((bytes) => this.show(readGlb(bytes)))
        .catch(() => this.say("The points could not be loaded; results are kept for an hour."));
    }

    disconnectedCallback() {
      this.resizing?.disconnect();
      this.gl?.getExtension("WEBGL_lose_context")?.loseContext();  // browsers allow few at a time
    }

    say(text) {
      this.lastChild.textContent = text;
    }

    show(meshes) {
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
      this.frame(meshes[0].positions);
      this.reset();
      this.listen();
      this.resizing = new ResizeObserver(() => this.draw());
      this.resizing.observe(this.canvas);
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

    frame(points) {  // what to look at: medians, so that stray points do not matter
      const count = points.length / 3, stride = Math.max(1, Math.floor(count / 5000));
      const axis = (k) => Array.from({ length: Math.floor(count / stride) }, (_, i) => points[3 * i * stride + k]).sort((a, b) => a - b);
      const sorted = [0, 1, 2].map(axis), at = (share) => sorted.map((values) => values[Math.floor(share * (values.length - 1))]);
      const low = at(0.05), high = at(0.95);
      this.middle = at(0.5);
      this.radius = Math.max(1e-3, Math.hypot(...high.map((value, k) => value - low[k])) / 2);
      this.spacing = (2.2 * this.radius) / Math.sqrt(count / 4);
    }

    reset() {
      Object.assign(this, { yaw: 0.45, pitch: 0.35, distance: 2.7 * this.radius, target: [...this.middle] });
    }

    axes() {
      const [cy, sy, cp, sp] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
      return { right: [cy, 0, -sy], up: [-sy * sp, cp, -cy * sp], back: [sy * cp, sp, cy * cp] };
    }

    draw() {
      const { gl, canvas } = this, ratio = window.devicePixelRatio || 1;
      canvas.width = Math.max(1, canvas.clientWidth * ratio);
      canvas.height = Math.max(1, canvas.clientHeight * ratio);
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      const { right, up, back } = this.axes(), eye = this.target.map((value, k) => value + this.distance * back[k]);
      const dot = (a) => -(a[0] * eye[0] + a[1] * eye[1] + a[2] * eye[2]);
      const world = [0, 1, 2].flatMap((k) => [right[k], up[k], back[k], 0]).concat([dot(right), dot(up), dot(back), 1]);
      const near = this.radius / 50, far = this.radius * 50;
      const lens = [canvas.height / canvas.width / FIELD, 0, 0, 0, 0, 1 / FIELD, 0, 0];
      lens.push(0, 0, (far + near) / (near - far), -1, 0, 0, (2 * far * near) / (near - far), 0);
      gl.uniformMatrix4fv(this.uniform("view"), false, multiply(lens, world));
      gl.uniform1f(this.uniform("pointSize"), (this.spacing * canvas.height) / FIELD / 2);
      for (const { mode, vertices, indexed, count } of this.meshes) {
        gl.bindVertexArray(vertices);
        if (indexed) gl.drawElements(mode, count, gl.UNSIGNED_INT, 0);
        else gl.drawArrays(mode, 0, count);
      }
      this.dataset.drawn = "yes";
    }

    change(update) {
      update();
      this.pitch = Math.min(1.5, Math.max(-1.5, this.pitch));
      this.distance = Math.min(20 * this.radius, Math.max(0.05 * this.radius, this.distance));
      cancelAnimationFrame(this.pending);
      this.pending = requestAnimationFrame(() => this.draw());
    }

    move(x, y) {
      const { right, up } = this.axes(), step = (2 * FIELD * this.distance) / this.canvas.clientHeight;
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
        if (before) this.change(() => (this.distance *= before / Math.max(1, apart())));
        else if (event.shiftKey) this.change(() => this.move(x, y));
        else this.change(() => { this.yaw -= x * 0.008; this.pitch += y * 0.008; });
      });
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
  }
  customElements.define("point-view", PointView);
})();
