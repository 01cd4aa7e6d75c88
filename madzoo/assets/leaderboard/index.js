// Tables and plots of the index page: both show the lines that the chosen benchmark and the filter leave.
const data = JSON.parse(document.getElementById("data").textContent);
const { DataTable, vegaEmbed } = window; // the two modules before this one

// Numbers; a missing one comes last, whichever way the column is sorted.
const compare = (sign) => (a, b) => (a === "" || b === "" ? (a === "") - (b === "") : sign * (a - b));
DataTable.type("number-last", { order: { asc: compare(1), desc: compare(-1) } });

const tip = document.getElementById("tip");

function showTip(event, datum) {
  tip.replaceChildren();
  if (!datum) { tip.hidden = true; return; }
  const add = (parent, name, text) => {
    const node = document.createElement(name);
    node.textContent = text;
    parent.append(node);
  };
  add(tip, "strong", datum.name);
  for (const [key, value] of datum.tip) {
    const line = document.createElement("div");
    if (key) add(line, "span", key);
    add(line, "b", value);
    tip.append(line);
  }
  tip.hidden = false;
  const { innerWidth, innerHeight } = window;
  const { offsetWidth, offsetHeight } = tip;
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - offsetWidth - 8))}px`;
  tip.style.top = `${event.clientY + 18 + offsetHeight < innerHeight ? event.clientY + 18 : Math.max(4, event.clientY - offsetHeight - 12)}px`;
}

class Section {
  constructor(root) {
    this.root = root;
    this.data = data[root.id];
    this.choice = root.querySelector("select");
    this.filter = root.querySelector("input[type=search]");
    this.lines = [...root.querySelectorAll("tbody tr")].map((row) => ({
      ...row.dataset,
      filled: [...row.cells].map((cell) => cell.dataset.order !== ""),
    }));
    this.table = this.makeTable();
    this.makeKeys();
    this.choice.addEventListener("change", () => this.update());
    this.filter.addEventListener("input", () => this.update());
    for (const radio of root.querySelectorAll("input[type=radio]"))
      radio.addEventListener("change", () => this.draw());
    this.update();
  }

  makeTable() {
    const groups = Object.fromEntries([...this.root.querySelectorAll("template[data-group]")].map((t) => [t.dataset.group, t]));
    const table = this.root.querySelector("table");
    const columns = [...table.tHead.rows[0].cells].map((cell, index) => {
      if (index === 0) return { visible: false, orderable: false };
      const sequence = cell.dataset.first === "desc" ? ["desc", "asc"] : ["asc", "desc"];
      return { type: cell.dataset.number === undefined ? "string" : "number-last", orderSequence: sequence };
    });
    return new DataTable(table, {
      columns,
      paging: false,
      autoWidth: false,
      layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
      order: [[1, "asc"]],
      orderFixed: { pre: [[0, "asc"]] },
      rowGroup: { dataSrc: 0, startRender: (rows, group) => groups[group].content.firstElementChild.cloneNode(true) },
      language: { zeroRecords: "No model matches the filter.", emptyTable: "Nothing was measured yet." },
    });
  }

  // DataTables sorts by Enter; a button is also pressed by the space bar. It would say of every column the order of the
  // first, which keeps benchmarks together: what is said here is the reader's own choice.
  makeKeys() {
    this.table.on("draw", () => {
      const [chosen, direction] = this.table.order()[0];
      this.table.columns().every((index) => {
        const head = this.table.column(index).header();
        if (index === chosen) head.setAttribute("aria-sort", `${direction}ending`);
        else head.removeAttribute("aria-sort");
      });
    });
    this.root.querySelector("thead").addEventListener("keydown", (event) => {
      if (event.key !== " ") return;
      event.preventDefault();
      event.target.closest("th")?.click();
    });
  }

  // A line is shown when its model matches; baselines and ablations stay as long as one model of their benchmark does.
  visible() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = this.lines.map((line) => !this.choice.value || line.benchmark === this.choice.value);
    const match = this.lines.map((line, k) => chosen[k] && line.kind === "model" && words.every((word) => line.words.includes(word)));
    const benchmarks = new Set(this.lines.filter((_, k) => match[k]).map((line) => line.benchmark));
    const kept = (line, k) => match[k] || (chosen[k] && line.kind !== "model" && (benchmarks.has(line.benchmark) || !words.length));
    return new Set(this.lines.filter(kept).map((line) => line.line));
  }

  update() {
    this.shown = this.visible();
    this.table.search.fixed("view", (_text, _data, index) => this.shown.has(this.lines[index].line));
    const one = this.data.benchmarks[this.choice.value];
    // A column is shown where any line shown says something in it; the lesser metrics only of one benchmark.
    const lines = this.lines.filter((line) => this.shown.has(line.line));
    this.table.columns().every((index) => {
      const column = this.table.column(index);
      const { metric, optional, main } = column.header().dataset;
      const wanted = optional === undefined || (one && one.metrics.indexOf(metric) > 0);
      if (index > 0 && lines.length) column.visible(Boolean(wanted) && lines.some((line) => line.filled[index]), false);
      if (main !== undefined && this.data.relative) column.title(one ? one.label : main);
    });
    this.table.draw();
    const models = lines.filter((line) => line.kind === "model").length;
    this.root.querySelector(".count").textContent = `${this.shown.size} lines, ${models} of them models`;
    this.draw();
  }

  draw() {
    const axis = this.root.querySelector("input[type=radio]:checked")?.value;
    const one = this.data.benchmarks[this.choice.value];
    const relative = this.data.relative && !one;
    const shown = this.data.points.filter((point) => this.shown.has(point.line));
    const models = shown.filter((point) => point.kind === "model" && (!relative || point.relative !== null));
    const points = models.filter((point) => axis in point).map((p) => {
      const y = relative ? p.relative : p.y;
      return { ...p, x: p[axis], y, low: relative ? y : p.low, high: relative ? y : p.high };
    });
    let levels = [];
    if (one) levels = shown.filter((point) => point.kind !== "model").map((p) => ({ ...p, x: 0 }));
    else if (relative && points.length) levels = [{ y: 1, name: "seasonal naive", tip: [] }];
    this.say(one, relative, models.length - points.length, points.some((point) => !point.solid));
    this.plot(axis, points, this.near(levels, points));
  }

  // Expressions are interpreted, not compiled: the page forbids eval. Level 1 logs errors; that no line is a level is none.
  async plot(axis, points, levels) {
    const holder = this.root.querySelector(".plot");
    const turn = (this.turn = (this.turn ?? 0) + 1);
    holder.classList.toggle("empty", !points.length);
    if (!axis || !points.length) return holder.replaceChildren();
    const spec = structuredClone(this.data.specs[axis]);
    for (const set of spec.data) if (set.name in { points, levels }) set.values = { points, levels }[set.name];
    const tooltip = (_handler, event, item) => showTip(event, item?.datum?.tip?.length ? item.datum : null);
    const options = { mode: "vega", renderer: "svg", ast: true, actions: false, defaultStyle: false, hover: true, tooltip, logLevel: 1 };
    const canvas = document.createElement("div");
    holder.replaceChildren(canvas);
    const { view, finalize } = await vegaEmbed(canvas, spec, options);
    this.finalize?.();
    this.finalize = finalize;
    if (turn !== this.turn) return finalize();
    view.addEventListener("click", (_event, item) => { if (item?.datum?.page) location.href = item.datum.page; });
    holder.dataset.drawn = turn;
  }

  // A level far from every point would press the points together: the note names it instead. Names that would be
  // written over each other share a line.
  near(levels, points) {
    if (!points.length) return [];
    const ys = points.flatMap((point) => [point.low, point.high]);
    const [low, high] = [Math.min(...ys), Math.max(...ys)];
    const room = Math.max(2 * (high - low), 0.25 * Math.abs(high));
    const [near, far] = [[], []];
    for (const level of levels) (level.y > low - room && level.y < high + room ? near : far).push(level);
    if (far.length) this.note(` Outside the picture: ${far.map((l) => `${l.name} (${Number(l.y.toPrecision(4))})`).join(", ")}.`);
    const all = [...ys, ...near.map((level) => level.y)];
    const close = 0.06 * (Math.max(...all) - Math.min(...all));
    const named = [];
    for (const level of near.sort((one, other) => one.y - other.y)) {
      const last = named.at(-1);
      if (last && level.y - last.y < close) { last.name = `${last.name} · ${level.name}`; level.name = ""; } else named.push(level);
    }
    return near;
  }

  note(words) { this.root.querySelector(".plot-note").append(words); }

  say(one, relative, missing, hollow) {
    const heading = one
      ? `${one.label} on ${one.title}: ${one.better} is better`
      : relative
        ? "Main error ÷ seasonal naive's, all benchmarks: lower is better"
        : "Top-1 in per cent, all data sets: higher is better";
    this.root.querySelector(".plot-title").textContent = heading;
    const bars = one || !relative ? "Bars: 95 % intervals where known. " : "";
    const absent = missing ? `${missing} without a value on this axis ${missing > 1 ? "are" : "is"} not drawn.` : "";
    const leaked = hollow ? "Hollow: saw the tested data. " : "";
    this.root.querySelector(".plot-note").replaceChildren(bars + leaked + absent);
  }
}

const sections = Object.fromEntries([...document.querySelectorAll("section[data-task]")].map((root) => [root.id, new Section(root)]));

// index.html#benchmark=NAME opens one benchmark.
function follow() {
  const wanted = new URLSearchParams(location.hash.slice(1)).get("benchmark");
  for (const section of Object.values(sections)) {
    if (!wanted || !section.data.benchmarks[wanted]) continue;
    section.choice.value = wanted;
    section.update();
    section.root.scrollIntoView();
  }
}
window.addEventListener("hashchange", follow);
follow();
document.documentElement.dataset.ready = "yes";
