// <job-status say="...">: what a screen reader hears of a request, in one place that stays whatever happens to this element.
// The same words again are not said: a request reports each of its steps.
(() => {
  const live = document.createElement("div");
  live.className = "heard-only";
  live.setAttribute("aria-live", "polite");

  class JobStatus extends HTMLElement {
    static observedAttributes = ["say"];

    connectedCallback() {
      this.hear();
    }

    attributeChangedCallback() {
      if (this.isConnected) this.hear();
    }

    hear() {
      if (!live.isConnected) document.body.append(live);
      const place = this.closest(".status") || this, words = this.getAttribute("say");
      if (words !== (place.said || "")) live.textContent = place.said = words;
    }
  }
  customElements.define("job-status", JobStatus);
})();
