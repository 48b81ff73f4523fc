// One picture at a time is sent as it is, and the answer is drawn. Places are relative, for a proxy's sake.

import { colourOf, draw } from "./drawing.js";

const at = (id) => document.getElementById(id);
const MOST_SHOWN = 200;
const MOST_CLASSES = 12;
const LIKELY = 0.5; // from where on one of several labels is named
const SLACK = 1e-4; // 0.35 of a model is a little less
const KEY = "lav-key";

const state = { picture: null, objects: [], file: null, labels: [], task: "", number: 0 };

async function ask(place, options = {}) {
  const headers = { ...options.headers };
  if (at("key").value) headers.Authorization = `Bearer ${at("key").value}`;
  const response = await fetch(place, { ...options, headers });
  const content = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
  if (response.ok) return { content, response };
  if (response.status === 401) at("key-field").hidden = false;
  throw new Error(response.status === 401 && !at("key").value ? "The server asks for a key: type it in at the top." : content.error);
}

async function introduce() {
  try {
    const { content } = await ask("deployments");
    const chosen = at("deployment").value;
    at("deployment").replaceChildren(
      ...(content.length > 1 ? [new Option("by traffic", "")] : []),
      ...content.map(({ name, traffic }) => new Option(content.length > 1 ? `${name} (${traffic} %)` : name, name)),
    );
    at("deployment").value = content.some(({ name }) => name === chosen) ? chosen : at("deployment").options[0].value;
    at("deployment-field").hidden = content.length < 2;
    state.deployments = content;
    at("about").textContent = content.every(({ ready }) => ready) ? told(content) : "The model is being loaded …";
    if (!content.every(({ ready }) => ready)) setTimeout(introduce, 1000);
  } catch (error) {
    at("about").textContent = error.message;
  }
}

function told(deployments) {
  const { model, task, labels } = deployments[0];
  const classes = `${labels.length} class${labels.length === 1 ? "" : "es"}`;
  return deployments.length > 1 ? `${deployments.length} deployments` : `${model}, ${task.replaceAll("_", " ")}, ${classes}`;
}

async function show(file) {
  const number = ++state.number;
  Object.assign(state, { file, objects: [], picture: null });
  say(`Asking about ${file.name || "the picture"} …`, "busy");
  at("answers").replaceChildren();
  at("raw").hidden = at("threshold-field").hidden = at("unseen").hidden = true;
  const seen = createImageBitmap(file).catch(() => null); // such as TIFF, which the server reads and browsers do not
  const picture = await seen;
  if (number !== state.number) return;
  state.picture = picture;
  document.body.classList.add("shown");
  if (picture) draw(at("canvas"), picture, []);
  else at("canvas").hidden = true;
  const started = performance.now();
  try {
    const name = at("deployment").value;
    const headers = { "Content-Type": "application/octet-stream", ...(name && { "azureml-model-deployment": name }) };
    const { content, response } = await ask("score", { method: "POST", body: file, headers });
    if (number !== state.number) return;
    const by = response.headers.get("azureml-model-deployment");
    answer(content[0], `${((performance.now() - started) / 1000).toFixed(2)} s`, by);
  } catch (error) {
    if (number === state.number) say(error.message, "bad");
  }
}

function answer(found, time, by) {
  at("json").textContent = JSON.stringify(found, null, 1);
  at("raw").hidden = false;
  at("unseen").hidden = state.picture !== null;
  const several = (state.deployments ?? []).length > 1;
  state.told = ` in ${time}${several ? ` by ${by}` : ""}`;
  const asked = (state.deployments ?? []).find(({ name }) => name === by);
  state.labels = asked?.labels ?? [];
  if (found.probs) classes(found, asked?.task === "image_classification_multilabel");
  else objects(found.boxes);
}

function classes({ probs, labels, decided }, several) {
  const rows = labels.map((label, index) => ({ label, score: probs[index], colour: colourOf(index) }));
  rows.sort((one, other) => other.score - one.score);
  const likely = (score, number) => (several ? score >= LIKELY : number === 0 && score !== null);
  const chosen = rows.filter(({ score }, number) => likely(score, number));
  const names = decided ?? chosen.map(({ label }) => label);
  say(`${names.length ? names.join(", ") : "None of the classes"}${state.told}`);
  at("answers").replaceChildren(...rows.slice(0, MOST_CLASSES).map(row), ...more(rows.length - MOST_CLASSES));
}

function objects(boxes) {
  const names = state.labels.length ? state.labels : [...new Set(boxes.map(({ label }) => label))].sort();
  state.objects = boxes.map((found) => ({ ...found, colour: colourOf(Math.max(0, names.indexOf(found.label))) }));
  const lowest = Math.min(1, ...boxes.map(({ score }) => score));
  at("threshold").value = at("threshold").min = Math.floor((lowest + SLACK) * 100) / 100;
  at("threshold-field").hidden = boxes.length < 2;
  filtered();
}

function filtered() {
  const threshold = Number(at("threshold").value);
  at("threshold-value").textContent = threshold.toFixed(2);
  const shown = state.objects.filter(({ score }) => score + SLACK >= threshold);
  say(`${shown.length || "No"} object${shown.length === 1 ? "" : "s"}${state.told}`);
  draw(at("canvas"), state.picture, shown);
  const items = shown.slice(0, MOST_SHOWN).map((found) => {
    const item = row(found);
    item.tabIndex = 0;
    for (const event of ["mouseenter", "focus"]) item.addEventListener(event, () => draw(at("canvas"), state.picture, shown, found));
    for (const event of ["mouseleave", "blur"]) item.addEventListener(event, () => draw(at("canvas"), state.picture, shown));
    return item;
  });
  at("answers").replaceChildren(...items, ...more(shown.length - MOST_SHOWN));
}

function row({ label, score, colour }) {
  const item = element("li");
  const [swatch, bar, filling] = [element("span", "swatch"), element("div", "bar"), element("span")];
  swatch.style.background = filling.style.background = colour;
  filling.style.width = `${(score * 100).toFixed(1)}%`;
  bar.append(filling);
  const name = element("span", "name", label);
  name.title = label;
  item.append(swatch, name, element("span", "score", score === null ? "none" : score.toFixed(3)), bar);
  return item;
}

function more(count) {
  return count > 0 ? [element("li", "more", `and ${count} more`)] : [];
}

function element(kind, style = "", text = "") {
  const made = document.createElement(kind);
  made.className = style;
  made.textContent = text; // never as HTML: names of classes are anybody's
  return made;
}

function say(text, kind = "") {
  at("status").textContent = text;
  at("status").className = kind;
}

function begin() {
  at("key").value = sessionStorage.getItem(KEY) ?? "";
  at("key-field").hidden = !at("key").value;
  at("key").addEventListener("change", () => {
    sessionStorage.setItem(KEY, at("key").value);
    introduce();
    if (state.file) show(state.file);
  });
  at("file").addEventListener("change", () => at("file").files[0] && show(at("file").files[0]));
  at("drop").addEventListener("keydown", ({ key }) => ["Enter", " "].includes(key) && at("file").click());
  at("deployment").addEventListener("change", () => state.file && show(state.file));
  at("threshold").addEventListener("input", filtered);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  document.addEventListener("dragleave", () => document.body.classList.remove("dragging"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    if (event.dataTransfer.files[0]) show(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", ({ clipboardData }) => clipboardData.files[0] && show(clipboardData.files[0]));
  window.addEventListener("resize", () => {
    if (state.objects.length) filtered();
    else if (state.picture) draw(at("canvas"), state.picture, []);
  });
  introduce();
}

begin();
