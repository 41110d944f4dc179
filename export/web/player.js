// <scene-player label="..." data="...">: the video of a result, its points with their cameras, and its depth, under one clock: the
// frame of the moment is shown in all three. `data` is JSON: "addresses" of the GLB ("cloud") and of sheets with all pictures of a
// kind in rows of ceil(sqrt(F)) ("video.jpg", "depth.jpg", "confidence.jpg"); "times" of the frames in seconds; "poses", of each
// frame null or 12 numbers in the GLB's axes: the camera's right, up and back, and where it stands; "lenses", of each
// frame (or one for all) where its picture ends at distance 1, left, right, below and above; "caption"; "drawn", the
// frames whose cameras are in "cloud", if not all; "compared", a "name" and "poses" of another path;
// "plays": at first, twice. With "sides", two names, it is two videos and their depth instead, without points; sheets of the
// second are "video2.jpg" and so on. Space plays, comma and full stop go to the frame before and behind. Nothing runs while
// nothing moves.
(() => {
  const KINDS = { video: "Video", depth: "Depth", confidence: "Confidence" };
  const ENDS = { depth: ["near", "far"], confidence: ["sure", "unsure"] };
  const REST_MS = 600;  // at the last frame, before it begins again

  class ScenePlayer extends HTMLElement {
    static observedAttributes = ["data"];

    connectedCallback() {
      this.open();
    }

    disconnectedCallback() {
      this.pause();
    }

    attributeChangedCallback(_, before) {
      // Gradio does not replace this element by the next result's: it changes the attributes and then removes what is inside.
      if (before !== null && this.isConnected) queueMicrotask(() => this.open());
    }

    open() {
      this.pause();
      const data = (this.data = JSON.parse(this.getAttribute("data"))), count = data.times.length;
      const kinds = ["depth", "confidence"].filter((kind) => data.addresses[`${kind}.jpg`]);
      const sides = (this.sides = data.sides ?? [""]);
      const pictures = (name, below) => sides.map((side, i) => `<figure class="${name}"><canvas role="img"></canvas>${below(i)}</figure>`).join("");
      const toggles = kinds.map((kind, i) => `<button type="button" name="${kind}" aria-pressed="${!i}">${KINDS[kind]}</button>`).join("");
      this.innerHTML = `<p class="caption" hidden></p><div class="stage">
          ${data.sides || data.addresses["video.jpg"] ? pictures("video", () => (data.sides ? "<figcaption></figcaption>" : "")) : ""}
          ${kinds.length ? pictures("depth", (side) => `<figcaption>${side ? "" : toggles}<span></span></figcaption>`) : ""}
        </div>
        <div class="clock" role="group" aria-label="Clock">
          <button type="button" name="play" aria-label="Play">▶</button>
          <input type="range" class="when" min="0" max="${count - 1}" step="1" value="0" aria-label="Frame"><output></output>
          <select aria-label="Points shown" hidden><option value="all">all points</option><option value="past">up to this frame</option>
            <option value="now">of this frame</option></select>
          <label hidden>Hide least sure <input type="range" class="least" min="0" max="90" step="5" value="0"></label>
          <p class="compared" ${data.compared ? "" : "hidden"}></p>
        </div>`;
      const caption = this.querySelector(".caption");
      [caption.textContent, caption.hidden] = [data.caption, !data.caption];
      if (data.compared) this.querySelector(".compared").textContent = `White dots: ${data.compared.name}`;
      this.querySelectorAll(".video figcaption").forEach((name, side) => (name.textContent = sides[side]));
      Object.assign(this, { frame: 0, kind: kinds[0], sheets: {}, view: null });
      if (!data.sides) this.openView(data);
      for (const kind of ["video", ...kinds]) sides.forEach((_, side) => this.fetchSheet(this.sheetOf(kind, side)));
      this.listen(kinds);
      this.go(0);
      if (data.plays && count > 1 && !matchMedia("(prefers-reduced-motion: reduce)").matches) this.play(2);
    }

    openView(data) {
      const view = (this.view = document.createElement("point-view"));
      view.data = data;
      view.setAttribute("src", data.addresses.cloud);
      view.setAttribute("label", this.getAttribute("label"));
      view.addEventListener("moment", (event) => { this.pause(); this.go(event.detail); });
      view.addEventListener("ready", () => {
        const { frame, confidence } = view.points ?? {};
        this.querySelector("select").hidden = !frame || frame.every((number) => number < 0);
        const differ = confidence && confidence.some((value) => value !== confidence[0]);
        this.querySelector(".least").parentElement.hidden = !differ;
        if (differ) this.sorted = Float32Array.from(confidence).sort();
        this.go(this.frame);
      });
      this.querySelector(".stage").append(view);
    }

    sheetOf(kind, side) {
      return side ? `${kind}${side + 1}` : kind;
    }

    fetchSheet(name) {
      const address = this.data.addresses[`${name}.jpg`];
      if (!address) return;
      const image = new Image(), { sheets } = this;
      image.onload = () => {
        if (sheets !== this.sheets) return;  // the next result came meanwhile
        const count = this.data.times.length, columns = Math.ceil(Math.sqrt(count)), rows = Math.ceil(count / columns);
        const box = (i) => [(i % columns) / columns, Math.floor(i / columns) / rows, ((i % columns) + 1) / columns, (Math.floor(i / columns) + 1) / rows];
        sheets[name] = { image, box };
        if (name === "video") this.view?.gl && this.view.hang(sheets.video);
        this.paint();
      };
      image.src = address;
    }

    listen(kinds) {
      const find = (selector) => this.querySelector(selector);
      find("[name=play]").addEventListener("click", () => (this.playing ? this.pause() : this.play(Infinity)));
      find(".when").addEventListener("input", (event) => { this.pause(); this.go(Number(event.target.value)); });
      find("select").addEventListener("input", () => this.go(this.frame));
      find(".least").addEventListener("input", () => this.go(this.frame));
      for (const video of this.querySelectorAll(".video")) video.addEventListener("click", () => (this.playing ? this.pause() : this.play(Infinity)));
      for (const kind of kinds) find(`[name=${kind}]`).addEventListener("click", () => {
        this.kind = kind;
        for (const other of kinds) find(`[name=${other}]`).setAttribute("aria-pressed", other === kind);
        this.paint();
      });
      this.onkeydown = (event) => {
        if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("button, select")) return;
        const keys = { " ": () => (this.playing ? this.pause() : this.play(Infinity)), ",": () => this.go(this.frame - 1), ".": () => this.go(this.frame + 1) };
        if (!keys[event.key]) return;
        event.preventDefault();
        keys[event.key]();
      };
    }

    preview(address) {  // of what is being made, in the place of the video that is not there yet; null: no more
      const places = [...this.querySelectorAll(".video")], lacks = (side) => !this.data.addresses[`${this.sheetOf("video", side)}.jpg`];
      const place = places.find((_, side) => lacks(side)) ?? places[0];
      let picture = place?.querySelector("img");
      if (!place || !address) return picture?.remove();
      if (!picture) place.append((picture = Object.assign(new Image(), { alt: "Preview of the clip, still noisy" })));
      picture.src = address;
    }

    go(frame) {  // to the frame of the moment
      const { times } = this.data, count = times.length, when = this.querySelector(".when");
      this.frame = Math.min(count - 1, Math.max(0, frame));
      when.value = this.frame;
      const words = `${this.frame + 1} of ${count}`, seconds = `${times[this.frame].toFixed(1)} s`;
      when.setAttribute("aria-valuetext", `Frame ${words}, ${seconds}`);
      this.querySelector("output").textContent = `${words} · ${seconds}`;
      const which = this.querySelector("select").value, share = Number(this.querySelector(".least").value) / 100;
      const least = this.sorted && share ? this.sorted[Math.floor(share * (this.sorted.length - 1))] : -1e30;
      if (this.view) this.view.limits = [which === "now" ? this.frame : -1e9, which === "all" ? 1e9 : this.frame, least];
      this.view?.at(this.frame);
      this.paint();
    }

    paint() {
      for (const [place, kind, side] of this.sides.flatMap((_, i) => [["video", "video", i], ["depth", this.kind, i]])) {
        const canvas = this.querySelectorAll(`.${place} canvas`)[side], sheet = this.sheets[this.sheetOf(kind, side)];
        if (!canvas || !sheet) continue;
        const { image, box } = sheet, [left, top, right, bottom] = box(this.frame), [w, h] = [image.naturalWidth, image.naturalHeight];
        const [width, height] = [Math.round((right - left) * w), Math.round((bottom - top) * h)];
        if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
        canvas.getContext("2d").drawImage(image, Math.round(left * w), Math.round(top * h), width, height, 0, 0, width, height);
        canvas.dataset.frame = this.frame;
        canvas.setAttribute("aria-label", `${KINDS[kind]}, frame ${this.frame + 1}${this.sides[side] && `, ${this.sides[side]}`}`);
      }
      for (const bar of this.querySelectorAll("figcaption span")) [bar.className, bar.innerHTML] = [`bar ${this.kind}`, ENDS[this.kind].map((end) => `<i>${end}</i>`).join("")];
    }

    play(rounds) {
      if (this.view?.tour != null) this.view.change(() => {});
      const { times } = this.data, last = times.length - 1;
      if (last < 1) return;
      this.press(true);
      const step = () => {
        if (!this.isConnected || document.hidden || this.checkVisibility?.() === false) return this.pause();
        const ends = this.frame === last;
        if (ends && --rounds < 1) { this.go(0); return this.pause(); }
        this.go(ends ? 0 : this.frame + 1);
        wait();
      };
      const wait = () => {
        const seconds = this.frame < last ? times[this.frame + 1] - times[this.frame] : REST_MS / 1000;
        this.playing = setTimeout(step, 1000 * Math.min(1, Math.max(0.04, seconds)));
      };
      wait();
    }

    pause() {
      clearTimeout(this.playing);
      this.playing = null;
      this.press(false);
    }

    press(plays) {
      const button = this.querySelector("[name=play]");
      if (!button) return;
      button.textContent = plays ? "❚❚" : "▶";
      button.setAttribute("aria-label", plays ? "Pause" : "Play");
    }
  }
  customElements.define("scene-player", ScenePlayer);
})();
