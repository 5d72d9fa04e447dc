// The view "side by side": what two sides answered to the same instruction, and which of them won.

const held = data.sides.length ? Object.keys(data.sides[0].answers) : []; // prompt ids, which all sides answered
const hasChecks = held.some((id) => data.instructions[id].types.length > 0);

function pair() {
  return [Number(field.first.value), Number(field.second.value)];
}

// What decides between the two sides that are chosen; undefined where both are the same.
function rule() {
  const [first, second] = pair();
  return data.versus[`${Math.min(first, second)} ${Math.max(first, second)}`];
}

function wonBy(id) {
  const win = rule()?.wins[id] ?? null; // of the later side over the earlier one
  if (win === null) return "undecided";
  if (win === 0.5) return "tie";
  const [first, second] = pair();
  return win > 0.5 === first < second ? "second" : "first";
}

function wonText(outcome) {
  if (outcome === "tie" || outcome === "undecided") return outcome;
  return `${data.sides[field[outcome].value].title} won`;
}

function passesAll(answer, types, wanted) {
  const among = answer.passed.filter((_, index) => wanted === "" || types[index] === wanted);
  return among.length ? among.every(Boolean) : null;
}

function passedBy(id) {
  const { types } = data.instructions[id];
  const [first, second] = pair().map((side) => passesAll(data.sides[side].answers[id], types, field.check.value));
  if (first === null) return null;
  return first ? (second ? "both" : "first") : (second ? "second" : "neither");
}

function scoreGain(id) {
  const [first, second] = pair();
  if (!rule()?.is_by_score) return null;
  return gap(data.sides[second].answers[id].score, data.sides[first].answers[id].score);
}

// What instructions are sorted by in this view.
const sideKeys = {
  margin: scoreGain,
  change: scoreGain,
  score: (id) => data.sides[field.second.value].answers[id].score,
};

function matchesSides(id) {
  return (field.won.value === "" || wonBy(id) === field.won.value)
    && (field.check.value === "" || data.instructions[id].types.includes(field.check.value))
    && (field.passed.value === "" || passedBy(id) === field.passed.value);
}

// `role`: won, or how it fared against the baseline; `why`: whether to say why there is no score.
function sideBox(index, id, { role = null, why = true, title = data.sides[index].title, score } = {}) {
  const side = data.sides[index];
  const answer = side.answers[id];
  const isOther = data.sides.some((one) => one.judge !== side.judge);
  const of = `${answer.num_samples > 1 ? `first of ${answer.num_samples}, mean ` : ""}score${isOther ? ` by ${side.judge},` : ""}`;
  const box = sampleBox(answer, {
    title, checks: data.instructions[id].checks, reason: answer.reason, role, why, of,
    score: score === undefined ? answer.score : score,
  });
  if (role === "won") box.classList.add("chosen");
  return box;
}

function sidesNode(id) {
  const outcome = wonBy(id);
  const isAll = field.shown.value === "all";
  const kind = outcome === "undecided" ? "warn" : outcome === "tie" ? "" : "good";
  const head = build("h3", "", build("span", `badge ${kind}`, wonText(outcome)));
  head.append(build("span", "", data.instructions[id].category));
  const gain = scoreGain(id);
  if (gain) head.append(build("span", "", `score ${gain < 0 ? "" : "+"}${number(gain)}, second less first`));
  const shown = isAll ? data.sides.keys() : pair();
  const boxes = [...shown].map((side) => {
    const isWinner = field[outcome] !== undefined && Number(field[outcome].value) === side;
    return sideBox(side, id, { role: isAll ? data.sides[side].answers[id].outcome : isWinner ? "won" : null });
  });
  const text = build("div", "instruction", ...textBlock(data.instructions[id].text));
  return build("article", "entry course", head, text, build("div", "samples", ...boxes));
}

function sidesStatus(ids) {
  const all = `${ids.length.toLocaleString("en")} of ${plural(held.length, "held-out instruction")}`;
  if (!ids.length) return `${all}: nothing matches these filters`;
  const counts = ["first", "second", "tie", "undecided"].map((outcome) =>
    [outcome, ids.filter((id) => wonBy(id) === outcome).length]);
  const told = counts.filter(([, count]) => count).map(([outcome, count]) =>
    field[outcome] ? `${wonText(outcome)} ${count.toLocaleString("en")}` : plural(count, outcome, outcome === "tie" ? "ties" : outcome));
  return `${all} (${told.join("; ")})`;
}
