// What both pages are made of. Every text becomes a text node (textContent); no string is ever read as markup.

const LONG_TEXT = 1200; // characters after which a text is folded to its beginning
const data = JSON.parse(document.getElementById("data").textContent);
// What is chosen, by the id of its field; in the address too, with "instruction" and "page".
const choices = [
  "view", "split", "iteration", "outcome", "first", "second", "won", "check", "passed", "shown",
  "category", "sort", "order", "text",
];
const field = Object.fromEntries(choices.map((id) => [id, document.getElementById(id)]));
const badges = { pair: "good", win: "good", chosen: "good", won: "good", loss: "bad", rejected: "bad", tie: "", unscored: "warn" };

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

// `reason` says why there is no score; `why`: whether the box has to say it.
function sampleBox(sample, { title, score, checks, reason = null, why = true, role = null, of = "score" }) {
  const head = build("h4", "", build("span", "", title), role && badge(role));
  if (score !== null) head.append(build("span", "score", `${of} ${number(score)}`));
  else if (reason !== null || sample.response === null) head.append(badge("unscored"));
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
  if (why && reason !== null && reason !== sample.split_error) box.append(build("p", "problem", `Unscored: ${reason}`));
  if (checks.length) box.append(checkList(checks, sample.passed));
  const notes = [];
  if (sample.response !== null) notes.push(plural(sample.num_response_tokens, "response token"));
  if (sample.is_forced) notes.push("response delimiter forced");
  if (sample.is_truncated) notes.push("ended by the token limit");
  if (notes.length) box.append(build("p", "notes", notes.join(" · ")));
  return box;
}

function gap(first, second) {
  return first === null || second === null ? null : first - second;
}
