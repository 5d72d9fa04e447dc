// The browser of samples: filters, order, pages, and entries that are built when their page is shown.
// Every text becomes a text node (textContent); no string is ever read as markup. What is chosen stands in the address
// behind #, so that a view can be linked to.

const PAGE_SIZE = 20;
const LONG_TEXT = 1200; // characters after which a text is folded to its beginning
const data = JSON.parse(document.getElementById("data").textContent);
const filters = ["split", "iteration", "category", "outcome"];
const choices = ["view", ...filters, "sort", "order", "text"]; // in the address, with "instruction" and "page"
const field = Object.fromEntries(choices.map((id) => [id, document.getElementById(id)]));
const values = {
  split: (entry) => entry.split,
  iteration: (entry) => String(entry.iteration),
  category: (entry) => data.instructions[entry.prompt_id].category,
  outcome: (entry) => entry.outcome,
};
const badges = { pair: "good", win: "good", chosen: "good", loss: "bad", rejected: "bad", tie: "", unscored: "warn" };

// An instruction's held-out entries by iteration: what a policy made of it before training and after.
const courses = new Map();
for (const entry of data.entries) {
  if (entry.split !== "held-out") continue;
  if (!courses.has(entry.prompt_id)) courses.set(entry.prompt_id, []);
  courses.get(entry.prompt_id).push(entry);
}

let matching = []; // entries, or the last entry of each course
let page = 0;
let instruction = ""; // the prompt id where one alone is shown

// --- building -----------------------------------------------------------------------------------------------------

function build(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== null)); // strings become text nodes
  return node;
}

function words(name) {
  return name.replaceAll("_", " ");
}

function badge(name) {
  return build("span", `badge ${badges[name] ?? "warn"}`, words(name));
}

function number(value) {
  return String(Number(value.toPrecision(4))).replace("-", "\u2212");
}

function plural(count, noun, many = `${noun}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? noun : many}`;
}

function textBlock(text) {
  if (text === "") return [build("div", "text empty", "(empty)")];
  const block = build("div", "text", text);
  block.dir = "auto";
  if (text.length <= LONG_TEXT && text.split("\n").length <= 20) return [block];
  block.classList.add("clamped");
  const more = build("button", "more", "Show all");
  more.type = "button";
  more.setAttribute("aria-expanded", "false");
  more.addEventListener("click", () => {
    const isFolded = block.classList.toggle("clamped");
    more.textContent = isFolded ? "Show all" : "Show less";
    more.setAttribute("aria-expanded", String(!isFolded));
  });
  return [block, more];
}

function folded(title, text) {
  return build("details", "", build("summary", "", title), ...textBlock(text));
}

function checkList(checks, passed) {
  const items = checks.map((check, index) => {
    const item = build("li", passed[index] ? "passed" : "failed", passed[index] ? "\u2713 " : "\u2717 ", check);
    item.setAttribute("aria-label", `${passed[index] ? "passed" : "failed"}: ${check}`);
    return item;
  });
  return build("ul", "checks", ...items);
}

function sampleBox(sample, { title, score, checks, reason = null, role = null, of = "score" }) {
  const head = build("h4", "", build("span", "", title), role && badge(role));
  head.append(score === null ? badge("unscored") : build("span", "score", `${of} ${number(score)}`));
  const box = build("div", `sample ${role ?? ""}`, head);
  if (sample.response === null) {
    box.append(build("p", "problem", `No response: ${words(sample.split_error ?? "unknown")}`));
    box.append(folded("Completion as it is", sample.completion));
  } else {
    if (sample.thought !== null) {
      box.append(folded(`Thought (${plural(sample.num_thought_tokens, "token")})`, sample.thought));
    }
    box.append(...textBlock(sample.response));
  }
  if (reason !== null && reason !== sample.split_error) box.append(build("p", "problem", `Unscored: ${reason}`));
  if (checks.length) box.append(checkList(checks, sample.passed));
  const notes = [];
  if (sample.response !== null) notes.push(plural(sample.num_response_tokens, "response token"));
  if (sample.is_forced) notes.push("response delimiter forced");
  if (sample.is_truncated) notes.push("ended by the token limit");
  if (notes.length) box.append(build("p", "notes", notes.join(" · ")));
  return box;
}

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

function policyBox(entry, title, role = null) {
  const { checks } = data.instructions[entry.prompt_id];
  const isMean = entry.num_samples > 1;
  const of = isMean ? `first of ${entry.num_samples}, mean score` : "score";
  return sampleBox(entry.policy, { title, score: entry.policy_score, checks, role, of });
}

function baselineBox(entry) {
  const { checks } = data.instructions[entry.prompt_id];
  return sampleBox(data.baseline[entry.prompt_id], { title: "Baseline", score: entry.baseline_score, checks });
}

function heldOutBoxes(entry) {
  return [policyBox(entry, "Policy"), baselineBox(entry)];
}

function courseNode(last) {
  const course = courses.get(last.prompt_id);
  const head = build("h3", "", `Iterations ${course[0].iteration} to ${last.iteration}, held-out`);
  head.append(build("span", "", data.instructions[last.prompt_id].category));
  const gain = keys.change(last);
  if (gain !== null) head.append(build("span", "", `score ${gain < 0 ? "" : "+"}${number(gain)} since iteration 0`));
  const boxes = course.map((entry) => {
    const untrained = entry.iteration === 0 ? ", untrained" : "";
    return policyBox(entry, `Iteration ${entry.iteration}${untrained}`, entry.outcome);
  });
  const text = build("div", "instruction", ...textBlock(data.instructions[last.prompt_id].text));
  return build("article", "entry course", head, text, build("div", "samples", baselineBox(last), ...boxes));
}

function entryNode(entry) {
  const isTraining = entry.split === "training";
  const instruction = data.instructions[entry.prompt_id];
  const head = build("h3", "", badge(entry.outcome), `Iteration ${entry.iteration}, ${entry.split}`);
  head.append(build("span", "", instruction.category));
  if (isTraining && entry.margin !== null) head.append(build("span", "", `margin ${number(entry.margin)} after length control`));
  if (isTraining && entry.outcome !== "pair") head.append(build("span", "", "gave no pair"));
  if (!isTraining && courses.get(entry.prompt_id).length > 1) {
    const across = build("a", "", "across iterations");
    across.href = `#${new URLSearchParams({ view: "across", instruction: entry.prompt_id })}`;
    head.append(across);
  }
  const node = build("article", "entry", head, build("div", "instruction", ...textBlock(instruction.text)));
  if (!isTraining && entry.reason !== null) node.append(build("p", "problem", `Unscored: ${entry.reason}`));
  node.append(build("div", "samples", ...(isTraining ? trainingBoxes(entry) : heldOutBoxes(entry))));
  return node;
}

// --- order --------------------------------------------------------------------------------------------------------

function gap(first, second) {
  return first === null || second === null ? null : first - second;
}

// What entries are sorted by; null comes last. Of a training instruction, the score is its best sample's.
const keys = {
  margin: (entry) => entry.split === "training" ? entry.margin : gap(entry.policy_score, entry.baseline_score),
  score: (entry) => {
    if (entry.split !== "training") return entry.policy_score;
    const scores = entry.samples.map((sample) => sample.score).filter((score) => score !== null);
    return scores.length ? Math.max(...scores) : null;
  },
  change: (entry) => {
    const [first] = courses.get(entry.prompt_id) ?? [];
    if (entry.split === "training" || entry.iteration === first.iteration) return null;
    return gap(entry.policy_score, first.policy_score);
  },
};

function sorted(entries) {
  const chosen = field.sort.value;
  if (chosen === "") return entries;
  const [key, sign] = chosen.startsWith("-") ? [keys[chosen.slice(1)], 1] : [keys[chosen], -1];
  const known = entries.map((entry) => [key(entry), entry]);
  known.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : sign * (a - b));
  return known.map(([, entry]) => entry);
}

// --- filters and pages --------------------------------------------------------------------------------------------

function fillFilters() {
  for (const name of filters) {
    const found = new Map();
    for (const entry of data.entries) {
      const value = values[name](entry);
      found.set(value, (found.get(value) ?? 0) + 1);
    }
    const names = [...found.keys()];
    if (name === "category") names.sort();
    const all = build("option", "", "all");
    all.value = "";
    const options = names.map((value) => {
      const option = build("option", "", `${name === "outcome" ? words(value) : value} (${found.get(value).toLocaleString("en")})`);
      option.value = value;
      return option;
    });
    field[name].replaceChildren(all, ...options);
  }
}

function* textsOf(entry) {
  yield data.instructions[entry.prompt_id].text;
  const samples = entry.samples ?? [entry.policy, data.baseline[entry.prompt_id]];
  for (const sample of samples) yield* [sample.thought, sample.response, sample.completion];
}

function holdsText(entry, wanted) {
  for (const text of textsOf(entry)) {
    if (text !== null && text.toLowerCase().includes(wanted)) return true;
  }
  return false;
}

function isAcross() {
  return field.view.value === "across";
}

function match() {
  const wanted = field.text.value.trim().toLowerCase();
  matching = data.entries.filter((entry) =>
    filters.every((name) => field[name].value === "" || values[name](entry) === field[name].value)
    && (instruction === "" || entry.prompt_id === instruction)
    && (wanted === "" || holdsText(entry, wanted)));
  if (isAcross()) { // an instruction is shown whole where one of its entries matches
    const found = new Set(matching.filter((entry) => entry.split === "held-out").map((entry) => entry.prompt_id));
    matching = [...found].map((id) => courses.get(id).at(-1));
  }
  matching = sorted(matching);
}

function filter() {
  page = 0;
  match();
  show();
}

// --- the address --------------------------------------------------------------------------------------------------

function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  if (![...choices, "instruction", "page"].some((name) => asked.has(name))) return false; // a heading, or nothing
  for (const name of choices) {
    field[name].value = asked.get(name) ?? "";
    if (field[name].selectedIndex === -1) field[name].value = ""; // an option that this page does not have
  }
  instruction = asked.get("instruction") ?? "";
  match();
  const numPages = Math.ceil(matching.length / PAGE_SIZE);
  page = Math.min(Math.max(Number.parseInt(asked.get("page") ?? "1", 10) || 1, 1), Math.max(numPages, 1)) - 1;
  show();
  return true;
}

function writeAddress() {
  const asked = new URLSearchParams();
  for (const name of choices) if (field[name].value !== "") asked.set(name, field[name].value);
  if (instruction !== "") asked.set("instruction", instruction);
  if (page > 0) asked.set("page", page + 1);
  const isPlain = asked.size === 0;
  document.getElementById("link").href = isPlain ? "#samples" : `#${asked}`;
  if (isPlain && !location.hash.includes("=")) return; // a heading's address stays
  history.replaceState(null, "", isPlain ? location.pathname + location.search : `#${asked}`);
}

function statusText() {
  if (isAcross()) {
    const all = plural(courses.size, "held-out instruction");
    return matching.length ? `${matching.length.toLocaleString("en")} of ${all}` : `0 of ${all}: nothing matches these filters`;
  }
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
  document.querySelectorAll(".pager").forEach((pager) => showPager(pager, numPages));
  const visible = matching.slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
  document.getElementById("entries").replaceChildren(...visible.map(isAcross() ? courseNode : entryNode));
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
fillFilters();
if (readAddress()) document.getElementById("samples").scrollIntoView();
else filter();
