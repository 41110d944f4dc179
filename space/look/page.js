// What the page does by itself: tell of a request, help with a prompt, start by Ctrl + Enter, copy links.
(() => {
  const panelOf = (element) => element.closest("[role=tabpanel]");
  const seen = (element) => element.checkVisibility?.() ?? element.offsetParent !== null;
  const live = document.createElement("div");
  live.className = "heard-only";
  live.setAttribute("aria-live", "polite");
  const announce = (words) => {
    if (!live.isConnected) document.body.append(live);
    if (live.textContent !== words) live.textContent = words;
  };

  // <job-status say="..." running preview="...">: `say` is what a screen reader hears of a request, in one place that stays whatever
  // happens to this element, and the same words once. While it runs the results of its panel are those of before, and look so; the
  // preview stands in the place of the video.
  class JobStatus extends HTMLElement {
    static observedAttributes = ["say", "running", "preview"];

    connectedCallback() {
      if (!live.isConnected) document.body.append(live);  // before there is anything to hear
      this.tell();
    }

    attributeChangedCallback() {
      if (this.isConnected) queueMicrotask(() => this.isConnected && this.tell());
    }

    tell() {
      const place = this.closest(".status") || this, panel = panelOf(this), words = this.getAttribute("say");
      if (words !== (place.said || "")) announce((place.said = words));
      if (!panel) return;
      const runs = this.hasAttribute("running"), ran = panel.hasAttribute("data-runs");
      panel.toggleAttribute("data-runs", runs);
      const player = panel.querySelector("scene-player");
      if (this.hasAttribute("preview") || !runs) player?.preview(this.getAttribute("preview"));
      if (runs === ran || !matchMedia("(max-width: 640px)").matches) return;
      if (runs) this.scrollIntoView({ block: "center" });  // on a telephone the results are below, and out of sight
      else if (words && !words.startsWith("Not done")) panel.querySelector(".viewer")?.scrollIntoView({ block: "start" });
    }
  }
  customElements.define("job-status", JobStatus);

  // <prompt-help data="...">: JSON of choices, the "pattern" that they fill, "known", the words that the model was trained on, and
  // "most", how many tokens it reads: a known word, a sign and the end are one each, an unknown word is about one a letter.
  class PromptHelp extends HTMLElement {
    connectedCallback() {
      const { pattern, known, most, ...parts } = JSON.parse(this.getAttribute("data"));
      const choice = ([name, values]) => `<label>${name} <select name="${name}"><option></option>${values.map((value) => `<option>${value}</option>`).join("")}</select></label>`;
      this.innerHTML = `<div>${Object.entries(parts).map(choice).join("")}</div><p role="note"></p>`;
      this.known = new Set(known);
      const behind = (name) => pattern.match(new RegExp(`\\{${name}\\}( \\w+)?`))[1] ?? "", said = {};
      this.addEventListener("change", ({ target: { name, value } }) => {
        const chosen = Object.fromEntries([...this.querySelectorAll("select")].map((one) => [one.name, one.value]));
        const field = panelOf(this).querySelector("textarea"), whole = pattern.replace(/\{(\w+)\}/g, (_, part) => chosen[part] || parts[part][0]);
        field.value = said[name] && value ? field.value.replace(said[name] + behind(name), value + behind(name)) : whole;
        field.dispatchEvent(new Event("input", { bubbles: true }));
      });
      this.judge = (text) => {
        const words = text.toLowerCase().match(/[^\s,.;:!?()"]+/g) || [], signs = text.match(/[,.;:!?()"]/g) || [];
        const strange = [...new Set(words.filter((word) => !this.known.has(word)))], note = this.querySelector("p");
        const tokens = words.reduce((sum, word) => sum + (this.known.has(word) ? 1 : word.length + 1), signs.length + 1);
        note.textContent = strange.length ? "The model does not know: " : "";
        for (const select of this.querySelectorAll("select")) {  // say what the prompt says
          const found = [...select.options].find(({ value }) => value && text.includes(value + behind(select.name)));
          select.value = said[select.name] = found ? found.value : "";
        }
        note.append(...strange.flatMap((word, i) => [i ? ", " : "", Object.assign(document.createElement("mark"), { textContent: word })]));
        if (tokens > most) note.append(`${strange.length ? ". " : ""}The prompt is longer than the model reads: its end ${strange.length ? "may be" : "is"} cut.`);
      };
    }
  }
  customElements.define("prompt-help", PromptHelp);

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    const panel = panelOf(event.target), start = panel && [...panel.querySelectorAll("button.primary")].find(seen);
    if (!start) return;
    event.preventDefault();
    start.click();
  }, true);

  // A video that this browser does not play, such as HEVC, has cameras all the same: no error, but a word.
  document.addEventListener("error", (event) => {
    const box = event.target instanceof HTMLVideoElement && event.target.closest(".given");
    if (!box) return;
    event.stopImmediatePropagation();
    if (!box.querySelector(".unplayable")) {
      const words = "This browser cannot play the video; its cameras can be found all the same.";
      event.target.after(Object.assign(document.createElement("p"), { className: "unplayable", textContent: words }));
    }
  }, true);

  document.addEventListener("loadeddata", (event) => event.target.closest(".given")?.querySelector(".unplayable")?.remove(), true);

  // What a link brings back stands behind its #, which browsers send to nobody.
  window.jog3r = {
    copy(tab, ...values) {
      location.hash = new URLSearchParams({ tab, values: JSON.stringify(values) });
      const button = [...document.querySelectorAll("button.dice")].filter(seen).at(-1);
      const say = (words, short) => {
        announce(words);
        button.textContent = short;
        setTimeout(() => (button.textContent = "Copy link"), 3000);
      };
      const kept = () => say("The address of this page brings all of this back.", "See the address");
      if (navigator.clipboard) navigator.clipboard.writeText(location.href).then(() => say("The link is copied.", "Copied"), kept);
      else kept();  // a page by plain http
    },
    linked(tab, values) {
      const asked = new URLSearchParams(location.hash.slice(1));
      try {
        const given = JSON.parse(asked.get("values"));
        if (asked.get("tab") !== tab || !Array.isArray(given) || given.length !== values.length) return values;
        [...document.querySelectorAll("[role=tab]")].find((button) => button.textContent.trim() === tab)?.click();
        return values.map((value, i) => (typeof given[i] === typeof value ? given[i] : value));
      } catch {
        return values;
      }
    },
  };
})();
