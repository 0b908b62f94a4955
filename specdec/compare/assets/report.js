"use strict";
// Draws a comparison: data is the JSON of `specdec compare`, charts are Observable Plot's.
const data = JSON.parse(document.getElementById("data").textContent);
const kinds = Object.keys(data.kinds);
const names = data.contenders.map((contender) => contender.name);
const baseline = names[0];
const speculative = names.slice(1);
const rows = kinds.flatMap((kind) => data.kinds[kind].map((row) => ({ kind, ...row })));
const colorOf = (name) => `var(--c${names.indexOf(name) === 0 ? 0 : 1 + ((names.indexOf(name) - 1) % 5)})`;
const words = (kind) => kind.replaceAll("_", " ");
const percent = (share) => `${Math.round(100 * share)} %`;
const fixed = (value, digits) => value.toFixed(digits);
const range = (e, digits) => (e.low === null ? "" : `${fixed(e.low, digits)}–${fixed(e.high, digits)}`);

function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const widthOf = (place) => Math.max(place.clientWidth, 220); // charts have margins, also in a folded window
const drawings = []; // what to draw again when widths change
function chart(title, draw) {
  const place = h("div");
  drawings.push(() => place.replaceChildren(draw(widthOf(place))));
  return h("div", { class: "chart" }, ...(title ? [h("h3", {}, title)] : []), place);
}

function legend(entries) {
  const item = ([label, color]) => h("li", {}, h("span", { class: "swatch", style: `background:${color}` }), label);
  return h("ul", { class: "legend" }, ...entries.map(item));
}
const contenderLegend = (shown) => legend(shown.map((name) => [name, colorOf(name)]));

function section(title, text, ...content) {
  return h("section", {}, h("h2", {}, title), h("p", { class: "soft small" }, text), ...content);
}

function tabs(label, options, choose) {
  const buttons = options.map(([value, shown]) => {
    const button = h("button", { type: "button", "aria-pressed": "false" }, shown);
    button.addEventListener("click", () => pick(value));
    return button;
  });
  function pick(value) {
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(options[i][0] === value)));
    choose(value);
  }
  return [h("div", { class: "tabs", role: "group", "aria-label": label }, ...buttons), pick];
}

const plotStyle = { background: "none", color: "var(--ink)", fontSize: "12px", fontFamily: "inherit" };
const plot = (options) => Plot.plot({ style: plotStyle, marginBottom: 44, marginTop: 12, ...options });
const grid = { stroke: "var(--line)", strokeOpacity: 1 };
const below = { tickSize: 0, tickPadding: 8, labelOffset: 38, labelAnchor: "center", labelArrow: "none" }; // an x axis, its label apart from the ticks
const left = { label: null, tickSize: 0, tickPadding: 6 };
const tip = { fill: "var(--card)", stroke: "var(--line)", lineHeight: 1.35, textPadding: 10 };
const short = (name) => (name.length > 17 ? `${name.slice(0, 16)}…` : name);

function head() {
  const drafts = [...new Set(data.contenders.map((c) => c.draft_device))].filter((d) => d !== "off");
  const devices = `Target ${data.target_device}, draft ${drafts.join(" and ") || "off"}. ` +
    `Measured ${data.finished_at.slice(0, 10)} on ${data.processor}.`;
  const runs = data.num_pairs * names.length;
  const first = data.differences[0];
  const verdict = data.is_equal
    ? h("div", { class: "verdict good" }, `All ${runs} outputs equal, token for token`)
    : h("div", { class: "verdict bad" }, `${data.differences.length} of ${runs} outputs differ, first: ` +
        `prompt ${first.prompt_id} by ${first.contender} from token ${first.index} on`);
  const drafted = (name) => rows.some((row) => row.contender === name && row.stats.num_draft_tokens + row.stats.num_unchecked_tokens > 0);
  const idle = speculative.filter((name) => !drafted(name)).map((name) => h("p", { class: "note small" }, `${name} drafted nothing, so it was plain decoding too.`));
  return h("header", {}, h("h1", {}, "Speculative against plain decoding"), h("p", { class: "soft" }, devices), verdict, ...idle);
}

function tiles() {
  const best = kinds.map((kind) => d3.greatest(data.kinds[kind].slice(1), (row) => row.ratio.value));
  const tile = (row, i) => h("div", { class: "tile" },
    h("div", { class: "kind" }, words(kinds[i])),
    h("div", { class: "big" }, fixed(row.ratio.value, 2), h("small", {}, " ×")),
    h("div", { class: "soft small" }, [speculative.length > 1 ? row.contender : "", range(row.ratio, 2)].filter(Boolean).join(", ") || "no interval"));
  const caption = speculative.length > 1 ? "Times as fast as plain decoding, best configuration of each kind:" : "Times as fast as plain decoding:";
  return h("div", {}, h("p", { class: "caption soft small" }, caption), h("div", { class: "tiles" }, ...best.map(tile)));
}

function speed() {
  const most = d3.max(rows, (row) => row.tokens_per_s.high ?? row.tokens_per_s.value);
  const draw = (kind) => (width) => plot({
    width, height: 50 + 26 * names.length, marginLeft: 112, marginRight: 62, marginTop: 4,
    x: { ...below, domain: [0, most], label: "tokens/s", ticks: Math.max(3, Math.round(width / 110)), tickFormat: most < 1e4 ? undefined : "~s", nice: true },
    y: { ...left, domain: names, tickFormat: short },
    marks: [
      Plot.gridX(grid),
      Plot.ruleY(data.kinds[kind], { y: "contender", x1: 0, x2: (d) => d.tokens_per_s.value, stroke: (d) => colorOf(d.contender), strokeWidth: 9, strokeOpacity: 0.28 }),
      Plot.ruleY(data.kinds[kind].filter((d) => d.tokens_per_s.low !== null), { y: "contender", x1: (d) => d.tokens_per_s.low, x2: (d) => d.tokens_per_s.high, stroke: (d) => colorOf(d.contender), strokeWidth: 2 }),
      Plot.dot(data.kinds[kind], { y: "contender", x: (d) => d.tokens_per_s.value, r: 5, fill: (d) => colorOf(d.contender), stroke: "var(--card)", tip,
        title: (d) => `${d.contender}\n${fixed(d.tokens_per_s.value, 1)} tokens/s (${range(d.tokens_per_s, 1) || "no interval"})\nn = ${d.tokens_per_s.num_values}` }),
      Plot.text(data.kinds[kind].filter((d) => d.ratio), { y: "contender", frameAnchor: "right", dx: 56, textAnchor: "end", fontWeight: 600, fill: "var(--ink)", text: (d) => `${fixed(d.ratio.value, 2)} ×` }),
    ],
  });
  return section("Speed by kind of text", "Tokens per second of decoding: median over prompts and its 95 % interval. On the right, how many times as fast as plain decoding of the same prompts.",
    h("div", { class: "grid wide" }, ...kinds.map((kind) => chart(words(kind), draw(kind)))));
}

function acceptance() {
  const points = rows.flatMap((row) => row.stats.drafted_per_position.map((drafted, i) => ({
    ...row, position: i + 1, drafted, share: drafted ? row.stats.accepted_per_position[i] / drafted : 0,
  }))).filter((point) => point.drafted);
  if (!points.length) return "";
  const longest = d3.max(points, (point) => point.position);
  const draw = (kind) => (width) => plot({
    width, height: 200, marginLeft: 44,
    x: { ...below, domain: [0.6, longest + 0.4], label: "position in the run", ticks: d3.range(1, longest + 1, longest > 8 ? 2 : 1), tickFormat: "d" },
    y: { ...left, domain: [0, 1], ticks: 5, tickFormat: "%" },
    marks: [
      Plot.gridY(grid),
      Plot.line(points.filter((p) => p.kind === kind), { x: "position", y: "share", z: "contender", stroke: (d) => colorOf(d.contender), strokeWidth: 2 }),
      Plot.dot(points.filter((p) => p.kind === kind), { x: "position", y: "share", r: 3, fill: (d) => colorOf(d.contender), tip,
        title: (d) => `${d.contender}\nposition ${d.position}: ${percent(d.share)}\nof ${d.drafted} runs` }),
    ],
  });
  return section("Acceptance by position", "Of the runs that were checked this far, the share that the target agreed with up to here.",
    contenderLegend(speculative), h("div", { class: "grid" }, ...kinds.map((kind) => chart(words(kind), draw(kind)))));
}

function tokensPerPass() {
  const shown = rows.filter((row) => row.contender !== baseline);
  const bars = shown.flatMap((row) => row.passes_by_tokens.map((passes, i) => ({ ...row, passes, tokens: i + 1, share: passes / d3.sum(row.passes_by_tokens) })));
  return section("Tokens per pass", "How many tokens a pass over the target's weights yields; plain decoding always yields one.",
    contenderLegend(speculative),
    h("div", { class: "grid" }, ...kinds.map((kind) => {
      const drawn = chart(words(kind), histogram(bars.filter((bar) => bar.kind === kind), d3.max(bars, (bar) => bar.share), Math.max(4, d3.max(bars, (bar) => bar.tokens))));
      const means = shown.filter((row) => row.kind === kind).map((row) => h("strong", { style: `color:${colorOf(row.contender)}` }, `${fixed(row.stats.tokens_per_pass, 2)} `));
      drawn.firstChild.after(h("p", { class: "soft small" }, ...means, "on average"));
      return drawn;
    })));
}

function histogram(bars, mostShare, mostTokens) {
  const step = 0.84 / speculative.length;
  const start = (d) => d.tokens - 0.42 + (names.indexOf(d.contender) - 1) * step;
  return (width) => plot({
    width, height: 200, marginLeft: 44,
    x: { ...below, domain: [0.5, mostTokens + 0.5], label: "tokens of a pass", ticks: d3.range(1, mostTokens + 1, mostTokens > 10 ? 2 : 1), tickFormat: "d" },
    y: { ...left, domain: [0, mostShare], ticks: 4, tickFormat: ".0%", nice: true },
    marks: [
      Plot.gridY(grid),
      Plot.rect(bars.filter((bar) => bar.passes), { x1: start, x2: (d) => start(d) + step, y1: 0, y2: "share", insetRight: 0.5, fill: (d) => colorOf(d.contender), tip,
        title: (d) => `${d.contender}\n${d.tokens} tokens: ${percent(d.share)}\n${d.passes} passes` }),
    ],
  });
}

const parts = [["verify", "verify passes"], ["draft", "drafting"], ["wait", "waiting for the draft"], ["host", "everything else"]];
function times() {
  const pieces = rows.flatMap((row) => parts.map(([part, label]) => ({ ...row, part, label, ms: row.ms_per_token[part] })));
  const most = d3.max(d3.rollups(pieces, (v) => d3.sum(v, (p) => p.ms), (p) => p.kind, (p) => p.contender), ([, inner]) => d3.max(inner, (d) => d[1]));
  const draw = (kind) => (width) => plot({
    width, height: 50 + 26 * names.length, marginLeft: 112, marginTop: 4, marginRight: 20,
    x: { ...below, domain: [0, most], label: "ms per token", ticks: Math.max(3, Math.round(width / 110)), nice: true },
    y: { ...left, domain: names, padding: 0.25, tickFormat: short },
    marks: [
      Plot.gridX(grid),
      Plot.barX(pieces.filter((p) => p.kind === kind), { y: "contender", x: "ms", order: parts.map(([part]) => part), z: "part", fill: (d) => `var(--${d.part})`, tip,
        title: (d) => `${d.contender}: ${d.label}\n${fixed(d.ms, 2)} ms per token` }),
    ],
  });
  return section("Where the time goes", "Decoding time per emitted token. Drafting hidden behind passes costs nothing and is not shown.",
    legend(parts.map(([part, label]) => [label, `var(--${part})`])),
    h("div", { class: "grid wide" }, ...kinds.map((kind) => chart(words(kind), draw(kind)))));
}

function lengths(sample) {
  const rounds = sample.lengths.map(([drafted, checked, accepted], i) => ({ round: i + 1, drafted, checked, accepted }));
  const layer = (key, fill) => Plot.rect(rounds, { x1: (d) => d.round - 0.5, x2: (d) => d.round + 0.5, y1: 0, y2: key, fill, insetLeft: 0.5, insetRight: 0.5 });
  return (width) => plot({
    width, height: 180, marginLeft: 30, marginRight: 8,
    x: { ...below, domain: [0.5, Math.max(rounds.length, 12) + 0.5], label: "round", tickFormat: "d", ticks: Math.max(3, Math.round(width / 90)) },
    y: { ...left, domain: [0, Math.max(4, d3.max(rounds, (d) => d.drafted))], tickFormat: "d", ticks: 4 },
    marks: [
      Plot.gridY(grid), layer("drafted", "var(--host)"), layer("checked", "var(--wait)"), layer("accepted", "var(--c3)"),
      Plot.ruleY([0], { stroke: "var(--soft)" }),
      Plot.tip(rounds, Plot.pointerX({ x: "round", y: "drafted", ...tip, title: (d) => `round ${d.round}\ndrafted ${d.drafted}\nchecked ${d.checked}\naccepted ${d.accepted}` })),
    ],
  });
}

const ending = (text) => (text.length > 300 ? `… ${text.slice(-300).replace(/^\S*\s/, "")}` : text);
const origins = [["accepted", "accepted draft token"], ["corrected", "the target's own, in place of a rejected one"], ["bonus", "the target's own, after a whole run was accepted"], ["plain", "plain: nothing was drafted"]];
function samples() {
  const chosen = { kind: kinds[0], contender: speculative[0] };
  const text = h("pre", { class: "text", tabindex: "0" });
  const place = h("div");
  const find = () => data.samples.find((s) => s.kind === chosen.kind && s.contender === chosen.contender);
  const draw = () => place.replaceChildren(lengths(find())(widthOf(place)));
  function show() {
    const token = ([origin, content]) => h("span", { class: `token ${origin}`, title: origin }, content);
    text.replaceChildren(h("span", { class: "prompt" }, ending(find().prompt)), ...find().tokens.map(token));
    text.scrollTop = 0;
    if (place.isConnected) draw();
  }
  const [kindTabs, pickKind] = tabs("kind", kinds.map((k) => [k, words(k)]), (kind) => { chosen.kind = kind; show(); });
  const [nameTabs, pickName] = tabs("configuration", speculative.map((n) => [n, n]), (name) => { chosen.contender = name; show(); });
  pickKind(chosen.kind);
  pickName(chosen.contender);
  drawings.push(draw);
  return section("Run by run, token by token", "The first prompt of each kind: how long its draft runs were, and where each token of its text comes from.",
    kindTabs, ...(speculative.length > 1 ? [nameTabs] : []),
    legend([["drafted", "var(--host)"], ["checked", "var(--wait)"], ["accepted", "var(--c3)"]]), h("div", { class: "chart" }, place),
    h("div", { style: "height:18px" }), legend(origins.map(([origin, label]) => [label, origin === "plain" ? "var(--faint);border:1px solid var(--line)" : `var(--${origin})`])), text);
}

function figures() {
  const headings = ["kind", "configuration", "tokens/s", "95 %", "× plain", "95 %", "tokens/pass", "accepted", "n", "outliers"];
  const line = (row, i) => h("tr", i === 0 ? { class: "first" } : {}, ...[
    i === 0 ? words(row.kind) : "", row.contender, fixed(row.tokens_per_s.value, 1), range(row.tokens_per_s, 1),
    row.ratio ? fixed(row.ratio.value, 2) : "", row.ratio ? range(row.ratio, 2) : "", fixed(row.stats.tokens_per_pass, 2),
    row.stats.num_draft_tokens ? percent(row.stats.acceptance_rate) : "", row.tokens_per_s.num_values, (row.ratio ?? row.tokens_per_s).num_outliers,
  ].map((cell) => h("td", {}, String(cell))));
  const body = kinds.flatMap((kind) => rows.filter((row) => row.kind === kind).map(line));
  return section("All figures", "n counts the runs whose times were kept.", h("div", { class: "scroll", tabindex: "0" },
    h("table", {}, h("thead", {}, h("tr", {}, ...headings.map((text) => h("th", {}, text)))), h("tbody", {}, ...body))));
}

function method() {
  const over = [...new Set(rows.map((row) => row.tokens_per_s.interval_over))].filter(Boolean).join(" and ");
  const settings = (c) => Object.entries(c.settings).map(([key, value]) => `${key} = ${value}`).join(", ") || "as configured, speculation off";
  const facts = [
    ["Order", `Every configuration continued each prompt before the next one began; who went first changed from prompt to prompt. One warm-up each. ${data.num_pairs} prompts in all, up to ${data.plan.max_new_tokens} new tokens.`],
    ["Figures", "A prompt's value is the median of its repeats, a kind's the median of its prompts."],
    ["Intervals", over ? `95 %, bootstrap over ${over}, widened for small samples.` : "None: too few prompts and repeats."],
    ["Outliers", "A repeat further than 5 robust standard deviations (1.4826 × MAD, of logarithms) from its prompt's median is removed and counted; prompts never are."],
    ...data.contenders.map((c) => [c.name, `${settings(c)}; draft ${c.draft_device}`]),
    ["Target", `${data.plan.target} on ${data.target_device}`], ["Numerics", [...new Set(data.contenders.map((c) => c.numerics_id))].join("; ")],
    ["Machine", data.processor], ["Finished", data.finished_at],
  ];
  return section("How this was measured", "All times were measured, none modelled.", h("dl", {}, ...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])));
}

document.getElementById("page").replaceChildren(head(), tiles(), speed(), acceptance(), tokensPerPass(), times(), samples(), figures(), method());
let drawnWidth = 0;
new ResizeObserver(() => {
  const width = document.getElementById("page").clientWidth;
  if (width !== drawnWidth) { drawnWidth = width; drawings.forEach((draw) => draw()); }
}).observe(document.getElementById("page"));
