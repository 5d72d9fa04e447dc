// The browser of samples: filters, pages, and entries that are built when their page is shown.
// Every text becomes a text node (textContent); no string is ever read as markup.

const PAGE_SIZE = 20;
const LONG_TEXT = 1200; // characters after which a text is folded to its beginning
const data = JSON.parse(document.getElementById("data").textContent);
const filters = ["split", "iteration", "category", "outcome"];
const field = Object.fromEntries([...filters, "order", "text"].map((id) => [id, document.getElementById(id)]));
const values = {
  split: (entry) => entry.split,
  iteration: (entry) => String(entry.iteration),
  category: (entry) => data.instructions[entry.prompt_id].category,
  outcome: (entry) => entry.outcome,
};
const badges = { pair: "good", win: "good", chosen: "good", loss: "bad", rejected: "bad", tie: "", unscored: "warn" };

let matching = [];
let page = 0;

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

function sampleBox(sample, { title, score, reason = null, role = null }) {
  const head = build("h4", "", build("span", "", title), role && badge(role));
  head.append(score === null ? badge("unscored") : build("span", "score", `score ${number(score)}`));
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
    reason: sample.unscored_reason,
    role: roles.get(sample.sample_index) ?? null,
  }));
}

function heldOutBoxes(entry) {
  return [
    sampleBox(entry.policy, { title: "Policy", score: entry.policy_score }),
    sampleBox(data.baseline[entry.prompt_id], { title: "Baseline", score: entry.baseline_score }),
  ];
}

function entryNode(entry) {
  const isTraining = entry.split === "training";
  const instruction = data.instructions[entry.prompt_id];
  const head = build("h3", "", badge(entry.outcome), `Iteration ${entry.iteration}, ${entry.split}`);
  head.append(build("span", "", instruction.category));
  if (isTraining && entry.margin !== null) head.append(build("span", "", `margin ${number(entry.margin)} after length control`));
  if (isTraining && entry.outcome !== "pair") head.append(build("span", "", "gave no pair"));
  const node = build("article", "entry", head, build("div", "instruction", ...textBlock(instruction.text)));
  if (!isTraining && entry.reason !== null) node.append(build("p", "problem", `Unscored: ${entry.reason}`));
  node.append(build("div", "samples", ...(isTraining ? trainingBoxes(entry) : heldOutBoxes(entry))));
  return node;
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

function filter() {
  const wanted = field.text.value.trim().toLowerCase();
  matching = data.entries.filter((entry) =>
    filters.every((name) => field[name].value === "" || values[name](entry) === field[name].value)
    && (wanted === "" || holdsText(entry, wanted)));
  page = 0;
  show();
}

function statusText() {
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
  document.getElementById("status").textContent = statusText();
  document.querySelectorAll(".pager").forEach((pager) => showPager(pager, numPages));
  const visible = matching.slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
  document.getElementById("entries").replaceChildren(...visible.map(entryNode));
}

let typing;
for (const name of [...filters, "order"]) field[name].addEventListener("change", filter);
field.text.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(filter, 150);
});
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
document.getElementById("filters").addEventListener("reset", () => setTimeout(filter));
fillFilters();
filter();
