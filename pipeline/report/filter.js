
"use strict";
(() => {
  const filter = document.getElementById("filter");
  if (!filter) return;
  const cards = document.querySelectorAll("[data-label]");
  const shown = document.getElementById("filter-count");
  const apply = () => {
    let n = 0;
    for (const card of cards) {
      card.hidden = filter.value !== "" && card.dataset.label !== filter.value;
      if (!card.hidden) n += 1;
    }
    shown.textContent = n + " shown";
  };
  filter.addEventListener("change", apply);
  document.getElementById("filter-bar").hidden = false;
  apply();
})();
