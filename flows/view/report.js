"use strict";
(() => {
  const PAGE = 24;
  const samples = JSON.parse(document.getElementById("data").textContent);
  const all = [...document.querySelectorAll(".card")];
  const cards = [...document.querySelectorAll("#samples .card")];
  const form = document.querySelector(".filters");
  if (!form) return;
  const selects = [...form.querySelectorAll("select")];
  const found = form.querySelector(".found");
  const more = document.querySelector(".more button");
  const dialog = document.getElementById("enlarged");
  const stage = dialog.querySelector(".stage");
  const views = [...dialog.querySelectorAll("[data-view]")];
  let fitting = cards.map((_, number) => number);
  let limit = PAGE;
  let current = 0;
  let view = "composite";

  // The grid: filters and paging.

  const show = () => {
    const visible = new Set(fitting.slice(0, limit));
    cards.forEach((card, number) => { card.hidden = !visible.has(number); });
    found.textContent = fitting.length ? `${visible.size} of ${fitting.length} shown` : "no sample fits these filters";
    more.hidden = fitting.length <= limit;
  };

  const filter = () => {
    const fits = (card) => selects.every(({ value, dataset }) => !value || card.dataset[dataset.field] === value);
    fitting = cards.map((_, number) => number).filter((number) => fits(cards[number]));
    limit = PAGE;
    show();
  };

  // The enlarged view. Text from the run enters the page as text nodes only.

  const make = (name, text, ...children) => {
    const element = document.createElement(name);
    if (text) element.textContent = text;
    element.append(...children);
    return element;
  };

  const pairs = (rows) => make("dl", "", ...rows.flatMap(([name, value]) => [
    make("dt", name), value instanceof Node ? make("dd", "", value) : make("dd", value),
  ]));

  const link = (text, address) => {
    if (!/^https?:\/\//i.test(address || "")) return make("span", text);
    const element = make("a", text);
    element.href = address;
    element.rel = "noopener noreferrer";
    element.target = "_blank";
    return element;
  };

  const describe = (sample) => {
    const state = make("p", sample.verdict ? `${sample.status}: ${sample.verdict}` : sample.status);
    state.className = `state ${sample.verdict ? "rejected" : "kept"}`;
    const gates = make("table", "", make("thead", "", make("tr", "", ...["Gate", "Value", "Limit"].map((text) => {
      const head = make("th", text);
      head.scope = "col";
      return head;
    }))), make("tbody", "", ...sample.gates.map(([name, value, limit, failed]) => {
      const row = make("tr", "", make("td", name), make("td", value), make("td", limit));
      row.className = failed;
      return row;
    })));
    const people = sample.people.flatMap((person) => [
      make("h3", person.role),
      pairs([
        ["image", person.image], ["annotation", person.annotation],
        ["licence", link(person.license, person.license_url)],
        ...person.links.map(([name, address]) => ["photograph", link(`at ${name}`, address)]),
      ]),
    ]);
    const folds = [["Recipe", sample.recipe], ["Notes", sample.notes]].filter(([, rows]) => rows.length)
      .map(([name, rows]) => make("details", "", make("summary", name), pairs(rows)));
    const sections = [state, pairs(sample.facts), make("h3", "Gates"), gates, ...people, make("h3", "How it was made"),
      ...folds, make("p", "Make this sample again, alone:"), make("pre", sample.remake)];
    dialog.querySelector(".facts").replaceChildren(...sections);
  };

  const look = (wanted) => {
    const sample = samples[current];
    view = wanted;
    for (const picture of stage.children) picture.classList.toggle("shown", picture.dataset.role === view);
    for (const button of views) button.setAttribute("aria-pressed", String(button.dataset.view === view));
    const name = view === "before" ? sample.before : view;
    const seen = Boolean(sample.pictures.composite);
    stage.setAttribute("aria-label", seen ? `Showing the ${name}; flip between ${sample.before} and composite` : sample.nothing);
    dialog.querySelector("[role=status]").textContent = seen ? name : sample.nothing;
  };

  const flip = () => look(view === "composite" ? "before" : "composite");

  const open = (number) => {
    current = number;
    const sample = samples[number];
    dialog.querySelector("#enlarged-key").textContent = sample.key;
    views[0].textContent = sample.before;
    views.forEach((button) => { button.disabled = !sample.pictures[button.dataset.view]; });
    const pictures = ["before", "composite", "mask"].filter((role) => sample.pictures[role]).map((role) => {
      const picture = make("img");
      picture.dataset.role = role;
      picture.alt = "";
      picture.width = sample.width;
      picture.height = sample.height;
      picture.src = sample.pictures[role];
      return picture;
    });
    const nothing = make("span", sample.nothing);
    nothing.className = "no-picture";
    stage.replaceChildren(...(pictures.length ? pictures : [nothing]));
    dialog.querySelector(".views").hidden = !pictures.length;
    describe(sample);
    look("composite");
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    stage.focus({ preventScroll: true });
  };

  // Arrows go through what fits the filters, or through the samples of a section of their own.
  const move = (step) => {
    const own = current >= cards.length;
    const numbers = own ? all.map((_, number) => number).slice(cards.length) : fitting;
    const place = numbers.indexOf(current) + step;
    if (place < 0 || place >= numbers.length) return;
    if (!own && place >= limit) { limit += PAGE; show(); }
    open(numbers[place]);
  };

  const actions = { flip, previous: () => move(-1), next: () => move(1), close: () => dialog.close() };

  all.forEach((card, number) => card.querySelector(".strip").addEventListener("click", () => open(number)));
  selects.forEach((select) => select.addEventListener("change", filter));
  more.addEventListener("click", () => { limit += PAGE; show(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) { dialog.close(); return; }
    const button = event.target.closest("button");
    if (button?.dataset.do) actions[button.dataset.do]();
    else if (button?.dataset.view) look(button.dataset.view);
  });
  dialog.addEventListener("close", () => all[current].querySelector(".strip").focus());
  dialog.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") move(-1);
    else if (event.key === "ArrowRight") move(1);
    else if (event.key === " " && !event.target.closest("button, a, summary")) flip();
    else return;
    event.preventDefault();
  });
  form.hidden = false;
  filter();
})();
