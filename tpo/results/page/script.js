// The browser of samples: filters, order, pages, and entries that are built when their page is shown. What is chosen
// stands in the address behind #, so that a view can be linked to. parts.js and sides.js stand before it.

const PAGE_SIZE = 20;
const filters = ["split", "iteration", "category", "outcome"];
let matching = []; // entries, or prompt ids where sides are shown beside each other
let page = 0;
let instruction = ""; // the prompt id where one alone is shown

const values = {
  split: (entry) => entry.split,
  iteration: (entry) => String(entry.iteration),
  category: (entry) => data.instructions[entry.prompt_id].category,
  outcome: (entry) => entry.outcome,
};

// --- entries ------------------------------------------------------------------------------------------------------

function trainingBoxes(entry) {
  const samples = [...entry.samples];
  if (field.order.value === "score") {
    samples.sort((a, b) => (b.score ?? -Infinity) - (a.score ?? -Infinity) || a.sample_index - b.sample_index);
  }
  const roles = new Map([[entry.chosen, "chosen"], [entry.rejected, "rejected"]]);
  return samples.map((sample) => sampleBox(sample, {
    title: `Sample ${sample.sample_index}`,
    score: sample.score,
    checks: data.instructions[entry.prompt_id].checks,
    reason: sample.unscored_reason,
    role: roles.get(sample.sample_index) ?? null,
  }));
}

function heldOutBoxes(entry) {
  return [
    sideBox(entry.side, entry.prompt_id, { title: "Policy", score: entry.policy_score, why: false }),
    sideBox(0, entry.prompt_id, { title: "Baseline", score: entry.baseline_score, why: false }),
  ];
}

function entryNode(entry) {
  const isTraining = entry.split === "training";
  const asked = data.instructions[entry.prompt_id];
  const head = build("h3", "", badge(entry.outcome), `Iteration ${entry.iteration}, ${entry.split}`);
  head.append(build("span", "", asked.category));
  if (isTraining && entry.margin !== null) head.append(build("span", "", `margin ${number(entry.margin)} after length control`));
  if (isTraining && entry.outcome !== "pair") head.append(build("span", "", "gave no pair"));
  if (!isTraining && data.sides.length > 2) {
    const across = build("a", "", "across iterations");
    across.href = `#${new URLSearchParams({ view: "across", shown: "all", instruction: entry.prompt_id })}`;
    head.append(across);
  }
  const node = build("article", "entry", head, build("div", "instruction", ...textBlock(asked.text)));
  if (!isTraining && entry.reason !== null) node.append(build("p", "problem", `Unscored: ${entry.reason}`));
  node.append(build("div", "samples", ...(isTraining ? trainingBoxes(entry) : heldOutBoxes(entry))));
  return node;
}

// --- order --------------------------------------------------------------------------------------------------------

// What entries are sorted by; null comes last. Of a training instruction, the score is its best sample's.
const keys = {
  margin: (entry) => entry.split === "training" ? entry.margin : gap(entry.policy_score, entry.baseline_score),
  score: (entry) => {
    if (entry.split !== "training") return entry.policy_score;
    const scores = entry.samples.map((sample) => sample.score).filter((score) => score !== null);
    return scores.length ? Math.max(...scores) : null;
  },
  change: (entry) => {
    if (entry.split === "training" || entry.iteration === 0) return null;
    return gap(entry.policy_score, untrained.get(entry.prompt_id) ?? null);
  },
};
const untrained = new Map(
  data.entries.filter((entry) => entry.iteration === 0).map((entry) => [entry.prompt_id, entry.policy_score]));

function sorted(rows) {
  const chosen = field.sort.value;
  if (chosen === "") return rows;
  const by = isAcross() ? sideKeys : keys;
  const [key, sign] = chosen.startsWith("-") ? [by[chosen.slice(1)], 1] : [by[chosen], -1];
  const known = rows.map((row) => [key(row), row]);
  known.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : sign * (a - b));
  return known.map(([, row]) => row);
}

// --- filters and pages --------------------------------------------------------------------------------------------

function isAcross() {
  return field.view.value === "across";
}

function setOptions(name, options, chosen = "") {
  const kept = field[name].value;
  field[name].replaceChildren(...options.map(([value, label]) => {
    const option = build("option", "", label);
    option.value = value;
    option.defaultSelected = value === chosen;
    return option;
  }));
  field[name].value = kept;
  if (field[name].selectedIndex === -1) field[name].value = chosen;
}

function counted(found) {
  const counts = new Map();
  for (const value of found) counts.set(value, (counts.get(value) ?? 0) + 1);
  return counts;
}

function setCounts(name, counts, tell = (value) => value) {
  const options = [...counts].map(([value, count]) => [value, `${tell(value)} (${count.toLocaleString("en")})`]);
  setOptions(name, [["", "all"], ...options]);
}

// The sides there are to choose from: what it was and what it became; the first and the last.
function fillSides() {
  const last = data.sides.length - 1;
  const options = data.sides.map((side, index) => [String(index), side.title]);
  setOptions("first", options, String(last > 1 ? 1 : 0));
  setOptions("second", options, String(last));
}

// The options that depend on the view or on the sides.
function fillFilters() {
  for (const name of filters) {
    const found = isAcross() && name === "category"
      ? held.map((id) => data.instructions[id].category) : data.entries.map(values[name]);
    if (name === "category") found.sort();
    setCounts(name, counted(found), name === "outcome" ? words : undefined);
  }
  setCounts("check", counted(held.flatMap((id) => [...new Set(data.instructions[id].types)]).sort()));
  if (!data.sides.length) return;
  const counts = counted(held.map(wonBy));
  const outcomes = ["first", "second", "tie", "undecided"];
  const options = outcomes.map((outcome) => [outcome, `${wonText(outcome)} (${(counts.get(outcome) ?? 0).toLocaleString("en")})`]);
  setOptions("won", [["", "all"], ...options]);
}

function showFilters() {
  const view = isAcross() ? "across" : "entries";
  const hasMany = data.sides.length > 2;
  for (const node of document.querySelectorAll("[data-view]")) {
    const isMissing = { checks: !hasChecks, many: !hasMany }[node.dataset.needs] ?? false;
    node.hidden = node.dataset.view !== view || isMissing;
  }
  document.getElementById("rule").textContent = rule()?.text ?? "Choose two sides that differ.";
}

function* textsOf(row) {
  const id = isAcross() ? row : row.prompt_id;
  yield data.instructions[id].text;
  const sides = isAcross() ? data.sides : row.samples ? [] : [data.sides[row.side], data.sides[0]];
  for (const sample of row.samples ?? sides.map((side) => side.answers[id])) {
    yield* [sample.thought, sample.response, sample.completion];
  }
}

function holdsText(row, wanted) {
  for (const text of textsOf(row)) {
    if (text !== null && text.toLowerCase().includes(wanted)) return true;
  }
  return false;
}

function matches(row) {
  if (!isAcross()) return filters.every((name) => field[name].value === "" || values[name](row) === field[name].value);
  return (field.category.value === "" || data.instructions[row].category === field.category.value) && matchesSides(row);
}

function match() {
  const wanted = field.text.value.trim().toLowerCase();
  matching = sorted((isAcross() ? held : data.entries).filter((row) =>
    (instruction === "" || (isAcross() ? row : row.prompt_id) === instruction)
    && matches(row) && (wanted === "" || holdsText(row, wanted))));
}

function filter() {
  page = 0;
  fillFilters();
  match();
  show();
}

// --- the address --------------------------------------------------------------------------------------------------

function standard(name) {
  const options = [...(field[name].options ?? [])];
  return (options.find((option) => option.defaultSelected) ?? options[0])?.value ?? "";
}

function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  if (![...choices, "instruction", "page"].some((name) => asked.has(name))) return false; // a heading, or nothing
  for (const name of choices) {
    field[name].value = asked.get(name) ?? standard(name);
    if (field[name].selectedIndex === -1) field[name].value = standard(name); // an option that this page does not have
    if (name === "view") fillFilters();
  }
  instruction = asked.get("instruction") ?? "";
  fillFilters();
  match();
  const numPages = Math.ceil(matching.length / PAGE_SIZE);
  page = Math.min(Math.max(Number.parseInt(asked.get("page") ?? "1", 10) || 1, 1), Math.max(numPages, 1)) - 1;
  show();
  return true;
}

function writeAddress() {
  const asked = new URLSearchParams();
  for (const name of choices) if (field[name].value !== standard(name)) asked.set(name, field[name].value);
  if (instruction !== "") asked.set("instruction", instruction);
  if (page > 0) asked.set("page", page + 1);
  const isPlain = asked.size === 0;
  document.getElementById("link").href = isPlain ? "#samples" : `#${asked}`;
  if (isPlain && !location.hash.includes("=")) return; // a heading's address stays
  history.replaceState(null, "", isPlain ? location.pathname + location.search : `#${asked}`);
}

function statusText() {
  if (isAcross()) return sidesStatus(matching);
  const splits = new Map(); // split -> outcome -> count
  for (const entry of matching) {
    if (!splits.has(entry.split)) splits.set(entry.split, new Map());
    const counts = splits.get(entry.split);
    counts.set(entry.outcome, (counts.get(entry.outcome) ?? 0) + 1);
  }
  const parts = [...splits].map(([split, counts]) => {
    const listed = [...counts].map(([outcome, count]) => `${count.toLocaleString("en")} ${words(outcome)}`);
    return `${split}: ${listed.join(", ")}`;
  });
  const shown = `${matching.length.toLocaleString("en")} of ${plural(data.entries.length, "entry", "entries")}`;
  return parts.length ? `${shown} (${parts.join("; ")})` : `${shown}: nothing matches these filters`;
}

function turn(step) {
  page += step;
  show();
  document.getElementById("status").scrollIntoView();
  // The buttons are new: whoever turns pages with the keyboard goes on where the page begins.
  const [previous, next] = document.querySelectorAll(".pager button");
  const wanted = step > 0 ? [next, previous] : [previous, next];
  wanted.find((button) => !button.disabled).focus({ preventScroll: true });
}

function showPager(pager, numPages) {
  const buttons = [["Previous", -1], ["Next", 1]].map(([label, step]) => {
    const button = build("button", "", label);
    button.type = "button";
    button.disabled = page + step < 0 || page + step >= numPages;
    button.addEventListener("click", () => turn(step));
    return button;
  });
  pager.hidden = numPages < 2;
  pager.replaceChildren(buttons[0], build("span", "", `page ${page + 1} of ${numPages}`), buttons[1]);
}

function show() {
  const numPages = Math.ceil(matching.length / PAGE_SIZE);
  const status = document.getElementById("status");
  status.replaceChildren(statusText());
  if (instruction !== "") {
    const all = build("button", "more", "All instructions");
    all.type = "button";
    all.addEventListener("click", () => { instruction = ""; filter(); });
    status.append(" ", all);
  }
  showFilters();
  document.querySelectorAll(".pager").forEach((pager) => showPager(pager, numPages));
  const visible = matching.slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
  document.getElementById("entries").replaceChildren(...visible.map(isAcross() ? sidesNode : entryNode));
  writeAddress();
}

let typing;
for (const name of choices) if (name !== "text") field[name].addEventListener("change", filter);
field.text.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(filter, 150);
});
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
document.getElementById("filters").addEventListener("reset", () => {
  instruction = "";
  setTimeout(filter);
});
addEventListener("hashchange", () => {
  if (readAddress()) document.getElementById("samples").scrollIntoView();
});
if (data.sides.length) {
  fillSides();
  fillFilters();
  if (readAddress()) document.getElementById("samples").scrollIntoView();
  else filter();
}
