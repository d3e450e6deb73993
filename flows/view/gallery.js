"use strict";
(() => {
  const PAGE = 24;
  const DASH = "\u2013";
  const BLOCK = 8; // of a JPEG: tiles stand on whole ones, with their own edge around them
  const by = (id) => document.getElementById(id);
  const waiting = new Map();
  window.galleryData = (name, value) => { (name === "index" ? start : waiting.get(name))?.(value); };
  addEventListener("error", ({ target }) => {
    if (target instanceof HTMLScriptElement && target.getAttribute("src") === "data/index.js") {
      by("made").textContent = "data/index.js cannot be read: move the gallery as a whole folder, or make it again.";
    }
  }, true);

  // Text from the run enters the page as text nodes only.

  const make = (name, text, ...children) => {
    const element = document.createElement(name);
    if (text) element.textContent = text;
    element.append(...children);
    return element;
  };

  const classed = (element, ...names) => { element.classList.add(...names.filter(Boolean)); return element; };

  const link = (text, address) => {
    if (!/^https?:\/\/[^/]/i.test(address || "")) return document.createTextNode(text);
    const element = make("a", text);
    element.href = address;
    element.rel = "noopener noreferrer";
    element.target = "_blank";
    return element;
  };

  const tell = (value) => {
    if (value === null || value === undefined) return DASH;
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (typeof value !== "number" || Number.isInteger(value)) return String(value);
    return Math.abs(value) >= 100 ? String(Math.round(value)) : String(Number(value.toPrecision(3)));
  };

  const spell = (field) => ({ foreground_mse: "foreground MSE", psnr: "PSNR", seen_by_gate: "seen by the gate" })[field]
    ?? field.replaceAll("_", " ");

  const quote = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);

  const start = (data) => {
    const columns = new Map(data.columns);
    const words = new Map(data.words);
    const meanings = new Map(data.meanings);
    const stages = new Map(data.stages.map(([name, tiles, before]) => [name, { tiles, before }]));
    const licenses = new Map(data.licenses.map(([id, name, url]) => [id, { name, url }]));
    const at = (name, i) => columns.get(name)[i];
    const word = (name, i) => words.get(name)[at(name, i)] ?? null;
    const keys = columns.get("key");
    const isRejected = (i) => word("status", i) !== "kept";
    const stageOf = (i) => stages.get(word("stage", i)) ?? stages.values().next().value;
    const form = by("filters");
    const cards = by("cards");
    const detail = by("detail");
    const say = (text) => { by("said").textContent = text; };
    // A page that was opened from disk knows where the run lies; from elsewhere its name has to do.
    const run = quote(location.protocol === "file:"
      ? decodeURIComponent(location.pathname).replace(/\/gallery\/[^/]*$/, "") : data.name);

    const verdict = (i) => {
      const reason = word("reason", i);
      if (!reason) return "";
      return at("value", i) === null ? reason : `${reason} ${tell(at("value", i))}, limit ${tell(at("limit", i))}`;
    };

    // Marks: by key, kept by the browser where it does so for pages from disk.

    const store = `hcoco gallery ${data.name} ${data.identity}`;
    const actionFor = (i) => (isRejected(i) ? "readmit" : "ban");
    const canMark = (i) => /^[\w-]+$/.test(keys[i]); // anything else would break the lines of the list
    let marks = new Map();
    let remembers = true;
    let dropped = 0;

    const recallMarks = () => {
      let stored = {};
      try {
        stored = JSON.parse(localStorage.getItem(store) || "{}");
      } catch {
        remembers = false;
      }
      const entries = Object.entries(stored || {});
      if (!entries.length) { marks = new Map(); return; }
      const places = new Map(keys.map((key, i) => [key, i]));
      marks = new Map(entries.filter(([key, action]) => places.has(key) && actionFor(places.get(key)) === action));
      dropped = entries.length - marks.size;
    };

    const keepMarks = () => {
      try {
        localStorage.setItem(store, JSON.stringify(Object.fromEntries(marks)));
      } catch {
        remembers = false;
      }
    };

    const dressMark = (button, i) => {
      const action = isRejected(i) ? "Re-admit" : "Ban";
      button.textContent = action;
      button.setAttribute("aria-pressed", String(marks.has(keys[i])));
      button.setAttribute("aria-label", `${action} ${keys[i]}`);
      button.disabled = !canMark(i);
    };

    const showMarks = () => {
      by("show-marks").textContent = `Marks: ${marks.size}`;
      for (const card of cards.children) {
        if (card.dataset.sample) dressMark(card.querySelector(".mark"), Number(card.dataset.sample));
      }
      if (detail.open) dressMark(detail.querySelector(".mark"), current);
    };

    const mark = (i) => {
      if (!canMark(i)) return;
      if (!marks.delete(keys[i])) marks.set(keys[i], actionFor(i));
      keepMarks();
      showMarks();
      say(`${marks.has(keys[i]) ? "marked" : "no longer marked"}: ${keys[i]}`);
    };

    const marksText = () => {
      const lines = [...marks].map(([key, action]) => `${action} ${key}`).sort();
      return [`# hcoco gallery of ${data.name.replace(/\s/g, " ")}`, ...lines, ""].join("\n");
    };

    const openMarks = () => {
      const actions = [...marks.values()];
      const readmit = actions.filter((action) => action === "readmit").length;
      by("marks-count").textContent = `${readmit} to re-admit, ${actions.length - readmit} to ban.`;
      by("marks-note").textContent = [
        remembers ? "" : "This browser keeps no marks for pages from disk: save the list before you close the page.",
        dropped ? `${dropped} older marks fit no sample any more and were dropped.` : "",
      ].join(" ").trim();
      by("marks-text").value = marksText();
      by("marks-commands").textContent = [...new Set(actions)].sort().map((action) => `hcoco ${action} ${run} ${fileName}`).join("\n");
      for (const button of by("marks").querySelectorAll("[data-do]:not([data-do=close])")) button.disabled = !marks.size;
      if (!by("marks").open) by("marks").showModal();
    };

    const fileName = `${data.name.replace(/[^\w.-]+/g, "_")}-marks.txt`;

    const saveMarks = () => {
      const anchor = make("a");
      anchor.href = URL.createObjectURL(new Blob([marksText()], { type: "text/plain" }));
      anchor.download = fileName;
      anchor.click();
      setTimeout(() => URL.revokeObjectURL(anchor.href), 60_000);
    };

    const copy = async (element, button) => {
      const text = element.value ?? element.textContent;
      const label = button.textContent;
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        if (element.select) element.select(); else getSelection().selectAllChildren(element);
        button.textContent = "Selected: press Ctrl+C";
      }
      setTimeout(() => { button.textContent = label; }, 2000);
    };

    // Filters, order and pages. The address after # holds the state, so that it can be kept and passed on.

    let fitting = [];
    let page = 0;
    let selected = 0; // a place in `fitting`

    const number = (name) => (form.elements[name].value === "" ? null : Number(form.elements[name].value));

    const range = (name) => {
      const [from, to] = [number(`${name}-from`), number(`${name}-to`)];
      if (from === null && to === null) return null;
      const values = columns.get(name);
      return (i) => values[i] !== null && (from === null || values[i] >= from) && (to === null || values[i] <= to);
    };

    const isWord = (name) => {
      const wanted = form.elements[name].value;
      if (!wanted) return null;
      const code = words.get(name).indexOf(wanted);
      const values = columns.get(name);
      return (i) => values[i] === code;
    };

    const search = () => {
      const text = form.elements.q.value.trim().toLowerCase();
      if (!text) return null;
      if (!/^\d+$/.test(text)) return (i) => String(keys[i]).toLowerCase().includes(text);
      const id = Number(text);
      const ids = data.columns.filter(([name]) => /_(image|annotation)_id$/.test(name)).map(([, values]) => values);
      return (i) => ids.some((values) => values[i] === id);
    };

    const isMarked = () => {
      const wanted = form.elements.mark.value;
      return wanted ? (i) => marks.has(keys[i]) === (wanted === "marked") : null;
    };

    const order = () => {
      const [, down, name] = /^(-?)(.*)$/.exec(form.elements.sort.value);
      if (!name) return;
      const values = columns.get(name);
      const sign = down ? -1 : 1;
      fitting.sort((a, b) => {
        const [x, y] = [values[a], values[b]];
        if (x === y) return a - b;
        if (x === null || y === null) return x === null ? 1 : -1; // unknown stands last, whatever the direction
        return x < y ? -sign : sign;
      });
    };

    const pages = () => Math.max(1, Math.ceil(fitting.length / PAGE));

    const filter = () => {
      const tests = [search(), ...data.words.map(([name]) => isWord(name)), range("strength"), range("score"), isMarked()]
        .filter(Boolean);
      fitting = keys.map((_, i) => i).filter((i) => tests.every((test) => test(i)));
      order();
      page = Math.min(page, pages() - 1);
      showPage();
    };

    const hash = () => {
      const state = new URLSearchParams();
      for (const [name, value] of new FormData(form)) if (value) state.set(name, value);
      if (page) state.set("page", page + 1);
      if (detail.open) state.set("sample", keys[current]);
      return state.toString();
    };

    const writeHash = (way = "replaceState") => {
      if (hash() !== location.hash.slice(1)) history[way](null, "", `#${hash()}`);
    };

    const readHash = () => {
      const state = new URLSearchParams(location.hash.slice(1));
      const sample = state.has("sample") ? keys.indexOf(state.get("sample")) : -1;
      if (sample < 0) detail.close();
      for (const control of form.elements) if (control.name) control.value = state.get(control.name) ?? "";
      for (const control of form.querySelectorAll("select")) if (control.selectedIndex < 0) control.value = "";
      page = Math.max(0, (Number.parseInt(state.get("page"), 10) || 1) - 1);
      filter();
      if (sample >= 0) open(sample, { from: "address" });
    };

    // Cards

    const showTile = (image, i, role) => {
      const { tiles } = stageOf(i);
      const shape = data.shapes[at("shape", i)];
      const [, sheetWidth, sheetHeight] = data.sheets[at("sheet", i)];
      const place = tiles.indexOf(role);
      const [width, height] = shape.slice(2 * place, 2 * place + 2);
      const left = tiles.slice(0, place).reduce((sum, _, k) => sum + (Math.floor(shape[2 * k] / BLOCK) + 2) * BLOCK, BLOCK);
      image.width = sheetWidth;
      image.height = sheetHeight;
      image.style.width = `${(100 * sheetWidth) / width}%`;
      image.style.left = `${(-100 * left) / width}%`;
      image.style.top = `${(-100 * at("top", i)) / height}%`;
      image.alt = role;
      return width / height;
    };

    const makeTile = (i, role) => {
      const image = make("img");
      image.decoding = "async";
      image.src = `sheets/${data.sheets[at("sheet", i)][0]}`;
      const tile = classed(make("span", "", image, classed(make("span", role), "name")), "tile");
      tile.style.setProperty("--ratio", showTile(image, i, role));
      tile.dataset.role = role;
      return tile;
    };

    const nothing = (i) => classed(make("span", word("reason", i) === "unreadable"
      ? "no pictures: a photograph could not be read" : "no pictures: they cannot be read from the shard, hcoco verify tells why"), "no-picture");

    const makeCard = (i) => {
      const strip = classed(make("button"), "strip");
      strip.type = "button";
      strip.setAttribute("aria-keyshortcuts", "Enter Space m");
      strip.setAttribute("aria-label", `${keys[i]}, ${verdict(i) || "kept"}`);
      if (at("sheet", i) === null) strip.append(nothing(i));
      else strip.append(...stageOf(i).tiles.map((role) => classed(make("span", "", makeTile(i, role)), "cell", role)));
      const numbers = [["strength", tell(at("strength", i))], ["MSE", tell(at("foreground_mse", i))]];
      if (at("score", i) !== null) numbers.push(["score", at("score", i).toFixed(2)]);
      const caption = make("p", "", classed(make("span", word("family", i)), "family"),
        ...numbers.map((pair) => make("span", pair.join(" "))), make("span", word("split", i) ?? ""));
      const state = make("p", verdict(i) || "kept");
      const button = make("button");
      button.type = "button";
      const text = make("div", "", classed(caption, "caption"), classed(state, "verdict", isRejected(i) ? "rejected" : "kept"),
        classed(make("p", keys[i]), "key"));
      const card = classed(make("li", "", strip, classed(make("div", "", text, classed(button, "mark")), "words")), "card");
      dressMark(button, i);
      card.dataset.sample = i;
      return card;
    };

    const flipCard = (card) => {
      const i = Number(card.dataset.sample);
      const tile = card.querySelector(".tile[data-role=composite]");
      if (!tile) return;
      const role = tile.closest(".cell").classList.toggle("flipped") ? stageOf(i).before : "composite";
      showTile(tile.querySelector("img"), i, role);
      tile.querySelector(".name").textContent = role;
      say(`showing ${role}`);
    };

    const showPage = () => {
      const shown = fitting.slice(page * PAGE, (page + 1) * PAGE);
      cards.replaceChildren(...shown.map(makeCard));
      if (!shown.length) {
        cards.append(classed(make("li", keys.length ? "No sample fits these filters." : "This run has no samples."), "nothing"));
      }
      const count = (n) => n.toLocaleString("en");
      by("found").textContent = fitting.length === keys.length
        ? `${count(keys.length)} samples` : `${count(fitting.length)} of ${count(keys.length)} samples`;
      by("page").value = page + 1;
      by("page").max = pages();
      by("pages").textContent = `of ${count(pages())}`;
      for (const button of document.querySelectorAll("[data-page]")) {
        button.disabled = /first|previous/.test(button.dataset.page) ? page === 0 : page === pages() - 1;
      }
      writeHash();
    };

    const turn = (to) => {
      page = Math.min(Math.max(to, 0), pages() - 1);
      selected = page * PAGE;
      showPage();
    };

    const turns = { first: () => 0, previous: () => page - 1, next: () => page + 1, last: () => pages() - 1 };

    const select = (place) => {
      if (!fitting.length) return;
      selected = Math.min(Math.max(place, 0), fitting.length - 1);
      if (Math.floor(selected / PAGE) !== page) { page = Math.floor(selected / PAGE); showPage(); }
      const card = cards.children[selected - page * PAGE];
      card.querySelector(".strip").focus({ preventScroll: true });
      card.scrollIntoView({ block: "nearest" });
    };

    const cardsInARow = () => {
      const all = [...cards.children];
      const row = all.findIndex((card) => card.offsetTop > all[0].offsetTop);
      return row < 0 ? all.length : row;
    };

    const cardKeys = {
      ArrowLeft: () => select(selected - 1),
      ArrowRight: () => select(selected + 1),
      ArrowUp: () => select(selected - cardsInARow()),
      ArrowDown: () => select(selected + cardsInARow()),
      Home: () => select(0),
      End: () => select(fitting.length - 1),
      PageUp: () => select((page - 1) * PAGE),
      PageDown: () => { if (page < pages() - 1) select((page + 1) * PAGE); },
      " ": (card) => flipCard(card),
      m: (card) => mark(Number(card.dataset.sample)),
    };

    // One sample, large, with all that is known of it.

    let current = 0;
    let view = "composite";
    let pushed = false; // opening added a step to the history
    let returning = false; // closing is taking it away
    const chunks = new Map();

    const loadChunk = (file) => {
      if (!chunks.has(file)) {
        chunks.set(file, new Promise((resolve, reject) => {
          const script = make("script");
          script.src = `data/${file}`;
          script.onload = () => script.remove();
          script.onerror = () => { script.remove(); chunks.delete(file); reject(new Error(file)); };
          waiting.set(file, resolve);
          document.head.append(script);
        }));
      }
      return chunks.get(file);
    };

    const readRow = async (i) => {
      let first = 0;
      for (const [file, count] of data.chunks) {
        if (i < first + count) {
          const pairs = await loadChunk(file);
          return new Map(pairs.map(([name, values]) => [name, Array.isArray(values) ? values[i - first] : values]));
        }
        first += count;
      }
      return new Map();
    };

    const list = (pairs) => make("dl", "", ...pairs.flatMap(([name, value]) => [make("dt", name), make("dd", "", value)]));

    const known = (row, prefix) => [...row].filter(([name, value]) => name.startsWith(prefix) && value !== null)
      .map(([name, value]) => [name.slice(prefix.length), String(value)]);

    const gateRows = (row) => {
      const order = new Map(data.gates.map(([name], place) => [name, place]));
      const measured = [...row.keys()].filter((name) => name.startsWith("gates_")).map((name) => name.slice(6));
      const others = data.stage_gates.filter(([stage]) => stage !== row.get("stage"));
      const mine = new Set(data.stage_gates.find(([stage]) => stage === row.get("stage"))?.[1] ?? []);
      const foreign = new Set(mine.size ? others.flatMap(([, gates]) => gates).filter((name) => !mine.has(name)) : []);
      const every = [...new Set([...data.gates.map(([name]) => name), ...measured])];
      const names = every.filter((name) => !foreign.has(name) || (row.get(`gates_${name}`) ?? null) !== null);
      names.sort((a, b) => (order.get(a) ?? 99) - (order.get(b) ?? 99));
      return names.map((name) => {
        const [, usual, bound] = data.gates[order.get(name)] ?? [name, null, "most"];
        const failed = name === row.get("reason");
        const limit = (failed ? row.get("limit") : null) ?? (name === "unnatural" ? row.get("threshold") : usual) ?? null;
        const told = limit === null ? DASH : `${bound === "least" ? "at least" : "at most"} ${tell(limit)}`;
        const value = row.get(`gates_${name}`) ?? null;
        const outcome = failed ? "failed" : value === null ? "not asked" : "passed";
        return classed(make("tr", "", ...[name, tell(value), told, outcome].map((text) => make("td", text))), failed && "failed");
      });
    };

    const makeGates = (row) => {
      const heads = ["Gate", "Value", "Threshold", ""].map((text) => {
        const head = make(text ? "th" : "td", text);
        if (text) head.scope = "col";
        return head;
      });
      return make("table", "", make("thead", "", make("tr", "", ...heads)), make("tbody", "", ...gateRows(row)));
    };

    const makePeople = (row) => [...row.keys()].filter((name) => name.endsWith("_image_id")).flatMap((name) => {
      const role = name.slice(0, -"_image_id".length);
      const of = (field) => row.get(`${role}_${field}`) ?? null;
      const license = licenses.get(String(of("license")));
      const named = license?.name ? String(license.name) : of("license") === null ? "unknown" : `id ${of("license")}`;
      const links = [["at COCO", of("coco_url")], ["at Flickr", of("flickr_url")]].filter(([, address]) => address);
      return [make("h3", `Photograph: ${role}`), list([
        ["image", tell(of("image_id"))], ["annotation", tell(of("annotation_id"))], ["licence", link(named, license?.url)],
        ...links.map(([text, address]) => ["photograph", /^https?:/i.test(address) ? link(text, address) : String(address)]),
      ])];
    });

    const makeCommand = (text, label) => {
      const command = make("pre", text);
      const button = make("button", "Copy");
      button.type = "button";
      button.addEventListener("click", () => copy(command, button));
      return [make("p", label), command, button];
    };

    const describe = (i, row) => {
      const fields = ["stage", "split", "family", "strength", "foreground_mse", "psnr", "score", "threshold", "seen_by_gate"];
      const state = classed(make("p", verdict(i) || word("status", i)), "state", isRejected(i) ? "rejected" : "kept");
      const meaning = classed(make("p", meanings.get(word("reason", i)) ?? ""), "meaning");
      const facts = fields.map((name) => [spell(name), tell(row.get(name))]);
      if (row.get("shown")) facts.push(["pictures show", row.get("shown")]);
      facts.push(["stored in", `${row.get("tar")}, offset ${row.get("offset")}, ${row.get("size")} bytes`]);
      const folds = [["Recipe", known(row, "recipe_")], ["Notes of the edit", known(row, "notes_")]]
        .filter(([, pairs]) => pairs.length).map(([name, pairs]) => make("details", "", make("summary", name), list(pairs)));
      return [state, meaning, list(facts), make("h3", "Gates"), makeGates(row), ...makePeople(row), make("h3", "How it was made"),
        ...folds, ...makeCommand(`hcoco remake ${run} ${quote(keys[i])}`, "Make this sample again and compare the bytes:")];
    };

    const look = (wanted) => {
      view = wanted;
      for (const tile of detail.querySelectorAll(".look-at .tile")) tile.classList.toggle("shown", tile.dataset.role === view);
      for (const button of detail.querySelectorAll("[data-view]")) {
        button.setAttribute("aria-pressed", String(button.dataset.view === view));
      }
    };

    const flip = () => { look(view === "composite" ? stageOf(current).before : "composite"); say(`showing ${view}`); };

    const open = async (i, { from = "page" } = {}) => {
      current = i;
      const place = fitting.indexOf(i);
      if (place >= 0) selected = place;
      by("detail-key").textContent = keys[i];
      const pictured = at("sheet", i) !== null;
      const { tiles, before } = stageOf(i);
      const lookAt = detail.querySelector(".look-at");
      lookAt.replaceChildren(...(pictured ? tiles.map((role) => makeTile(i, role)) : [nothing(i)]));
      lookAt.setAttribute("aria-label", pictured ? `Flip between ${before} and composite` : "No pictures");
      detail.querySelector(".views").replaceChildren(...(pictured ? tiles : []).map((role) => {
        const button = make("button", role);
        button.type = "button";
        button.dataset.view = role;
        return button;
      }));
      dressMark(detail.querySelector(".mark"), i);
      look("composite");
      const wasOpen = detail.open;
      if (!wasOpen) detail.showModal();
      detail.scrollTop = 0;
      lookAt.focus({ preventScroll: true });
      if (from === "page") {
        writeHash(wasOpen ? "replaceState" : "pushState");
        pushed ||= !wasOpen;
      }
      const facts = detail.querySelector(".facts");
      facts.replaceChildren(make("p", "Reading …"));
      try {
        const row = await readRow(i);
        if (i === current) facts.replaceChildren(...describe(i, row));
      } catch {
        if (i === current) facts.replaceChildren(make("p", "The data of this sample cannot be read: move the gallery as a whole folder, or make it again."));
      }
    };

    const move = (step) => {
      const place = selected + step;
      if (place < 0 || place >= fitting.length) return;
      if (Math.floor(place / PAGE) !== page) { page = Math.floor(place / PAGE); showPage(); }
      open(fitting[place]);
    };

    const actions = {
      flip,
      mark: () => mark(current),
      previous: () => move(-1),
      next: () => move(1),
      close: () => detail.close(),
    };

    // Opening adds a step to the browser's history, so that its way back closes; closing takes that step away.

    detail.addEventListener("close", () => {
      if (pushed) { returning = true; history.back(); } else writeHash();
      pushed = false;
      if (fitting.length) select(Math.max(0, fitting.indexOf(current)));
    });

    addEventListener("popstate", () => {
      if (returning) { returning = false; writeHash(); return; }
      pushed = false;
      if (hash() !== location.hash.slice(1)) readHash();
    });

    detail.addEventListener("click", (event) => {
      if (event.target === detail) { detail.close(); return; }
      const button = event.target.closest("button");
      if (button?.dataset.do) actions[button.dataset.do]();
      else if (button?.dataset.view) look(button.dataset.view);
    });

    detail.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key === "ArrowLeft") move(-1);
      else if (event.key === "ArrowRight") move(1);
      else if (event.key === "m") mark(current);
      else if (event.key === " " && !event.target.closest("button:not(.look-at), a, summary")) flip();
      else return;
      event.preventDefault();
    });

    by("marks").addEventListener("click", (event) => {
      const what = event.target === by("marks") ? "close" : event.target.closest("button")?.dataset.do;
      if (what === "close") by("marks").close();
      else if (what === "save") saveMarks();
      else if (what === "copy") copy(by("marks-text"), event.target);
      else if (what === "filter") {
        form.reset();
        form.elements.mark.value = "marked";
        page = 0;
        filter();
        by("marks").close();
      } else if (what === "clear" && confirm(`Remove all ${marks.size} marks?`)) {
        marks.clear();
        keepMarks();
        showMarks();
        openMarks();
      }
    });

    cards.addEventListener("click", (event) => {
      const card = event.target.closest(".card");
      if (!card) return;
      selected = page * PAGE + [...cards.children].indexOf(card);
      if (event.target.closest(".mark")) mark(Number(card.dataset.sample));
      else if (event.target.closest(".strip")) open(Number(card.dataset.sample));
    });

    cards.addEventListener("focusin", (event) => {
      const card = event.target.closest(".card");
      if (card) selected = page * PAGE + [...cards.children].indexOf(card);
    });

    document.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || document.querySelector("dialog[open]")) return;
      const inField = event.target.closest("input, select, textarea");
      if (event.key === "/" && !inField) {
        document.querySelector(".filters").open = true;
        form.elements.q.focus();
        form.elements.q.select();
        event.preventDefault();
        return;
      }
      const card = event.target.closest(".card");
      const onBody = event.target === document.body || event.target === cards;
      if (!card && onBody && /^Arrow/.test(event.key)) select(page * PAGE);
      else if (card && !event.target.closest(".mark:focus") && cardKeys[event.key]) cardKeys[event.key](card);
      else return;
      event.preventDefault();
    });

    const change = () => { page = 0; selected = 0; filter(); };
    form.addEventListener("input", change);
    form.addEventListener("reset", () => setTimeout(change));
    form.addEventListener("submit", (event) => event.preventDefault());
    by("page").addEventListener("change", () => turn((Number.parseInt(by("page").value, 10) || 1) - 1));
    document.querySelector(".pager").addEventListener("click", (event) => {
      const button = event.target.closest("[data-page]");
      if (button) turn(turns[button.dataset.page]());
    });
    by("show-marks").addEventListener("click", openMarks);
    addEventListener("storage", (event) => { if (event.key === store) { recallMarks(); showMarks(); } });

    const fillChoices = () => {
      for (const [name, choices] of data.words) {
        const counts = new Map();
        for (const code of columns.get(name)) counts.set(code, (counts.get(code) ?? 0) + 1);
        const control = form.elements[name];
        const option = (text, value) => { const element = make("option", text); element.value = value; return element; };
        control.replaceChildren(option("all", ""),
          ...choices.map((choice, code) => option(`${choice} (${counts.get(code)})`, choice)));
        control.parentElement.hidden = name === "stage" && choices.length < 2;
      }
      if (columns.get("score").every((score) => score === null)) {
        by("scores").disabled = true;
        by("scores").firstElementChild.textContent = "Score (gate was off)";
      }
    };

    const rejected = keys.filter((_, i) => isRejected(i)).length;
    by("made").textContent = `${keys.length.toLocaleString("en")} samples: ${(keys.length - rejected).toLocaleString("en")} kept, ${rejected.toLocaleString("en")} rejected`;
    document.querySelector(".filters").open = matchMedia("(min-width: 52rem)").matches;
    fillChoices();
    recallMarks();
    showMarks();
    readHash();
  };
})();
