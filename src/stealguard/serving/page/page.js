"use strict";
const at = id => document.getElementById(id);
const canvas = at("canvas"), pen = canvas.getContext("2d", {willReadFrequently: true});
let model = null, shape = [], names = [];

function tell(text, bad = false) {
  at("told").textContent = text;
  at("told").classList.toggle("bad", bad);
}

async function ask(method, path, body) {
  const headers = {"Authorization": `Bearer ${at("key").value.trim()}`};
  if (body) headers["Content-Type"] = "application/json";
  const response = await fetch(path, {method, headers, body: body && JSON.stringify(body)});
  const found = await response.json().catch(() => ({error: "The answer is not JSON."}));
  if (!response.ok) throw new Error(found.error || `The server answered with status ${response.status}.`);
  return found;
}

const guarded = step => async event => {
  event?.preventDefault();
  try { await step(); } catch (error) { tell(error.message, true); }
};

function define(list, pairs) {
  list.replaceChildren(...pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").flatMap(([name, value]) => {
    const dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = name;
    dd.textContent = value;
    return [dt, dd];
  }));
}

async function connect() {
  tell("");
  const models = (await ask("POST", "v2/repository/index", {})).filter(entry => entry.state === "READY");
  if (!models.length) throw new Error("This key may ask no model.");
  const chosen = at("model").value;
  at("model").replaceChildren(...models.map(entry => new Option(`${entry.name}, version ${entry.version}`, `${encodeURIComponent(entry.name)}/versions/${encodeURIComponent(entry.version)}`)));
  at("model").disabled = false;
  if ([...at("model").options].some(option => option.value === chosen)) at("model").value = chosen;
  await choose();
  at("connected").hidden = false;
}

async function choose() {
  model = at("model").value;
  const found = await ask("GET", `v2/models/${model}`);
  shape = found.inputs[0].shape.slice(1);
  const classes = found.outputs[0].shape[1];
  const told = found.parameters?.class_names;
  names = Array.isArray(told) ? told : typeof told === "string" ? JSON.parse(told) : [];
  if (names.length !== classes) names = Array.from({length: classes}, (_, i) => String(i));
  const picture = shape.length === 3 && (shape[0] === 1 || shape[0] === 3);
  at("picture").hidden = !picture;
  at("table").hidden = picture;
  at("length").textContent = shape.reduce((a, b) => a * b, 1);
  if (picture) {
    [canvas.height, canvas.width] = shape.slice(1);
    at("size").textContent = `${shape[2]} x ${shape[1]}`;
    clear();
  }
  at("bars").replaceChildren();
  at("none").hidden = false;
  at("meaning").textContent = found.parameters?.confidence ?? "";
  await Promise.all([account(), card()]);
}

async function account() {
  const found = await ask("GET", `stealguard/account/${model}`);
  define(at("account"), [
    ["Account", found.account], ["Answered", found.used?.toLocaleString("en")],
    ["Left", found.left === null ? (found.used === null ? "not counted" : "no limit") : found.left.toLocaleString("en")],
    ["Rate", found.rate === null ? null : `${found.rate} inputs a second`],
    ["Answers", found.labels ? "labels alone" : [found.top_k && `the ${found.top_k} most probable classes`, found.digits && `${found.digits} decimal digits`].filter(Boolean).join(", ") || "probabilities"],
  ]);
  at("meaning").hidden = found.labels || !at("meaning").textContent;
  at("owner").hidden = !found.owner;
  if (found.owner) await owner();
}

async function card() {
  const found = await ask("GET", `stealguard/card/${model}`);
  define(at("card"), Object.entries(found));
}

async function owner() {
  const found = await ask("GET", `stealguard/suspicion/${model}`);
  at("accounts").replaceChildren(...found.accounts.map(entry => curve(entry, found.limit)));
}

const SVG = "http://www.w3.org/2000/svg";
function drawn(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function curve({account, points, used, refused}, limit) {
  const figure = document.createElement("figure"), caption = document.createElement("figcaption");
  const svg = drawn("svg", {viewBox: "0 0 320 90", role: "img", "aria-label": `Suspicion of ${account}`});
  const values = points.map(([, value]) => value);
  const most = Math.max(1.2 * limit, ...values), least = Math.min(0, ...values);
  const y = value => 85 - 80 * (value - least) / (most - least || 1);
  const x = i => 5 + 310 * i / Math.max(1, values.length - 1);
  svg.append(drawn("line", {x1: 0, x2: 320, y1: y(limit), y2: y(limit), stroke: "currentColor", class: "limit", "stroke-dasharray": "4 3"}));
  svg.append(drawn("polyline", {points: values.map((value, i) => `${x(i)},${y(value)}`).join(" "), fill: "none", stroke: "currentColor", "stroke-width": 2}));
  const last = values.length ? values[values.length - 1] : 0;
  if (values.length) svg.append(drawn("circle", {cx: x(values.length - 1), cy: y(last), r: 3, fill: "currentColor"}));
  caption.textContent = `${account}: ${used.toLocaleString("en")} answered, suspicion ${last.toFixed(1)}${refused ? ", refused" : ""}`;
  figure.append(svg, caption);
  return figure;
}

function clear() {
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, canvas.width, canvas.height);
}

function pixels() {
  const {data} = pen.getImageData(0, 0, canvas.width, canvas.height);
  const [channels, height, width] = shape, found = [];
  for (let c = 0; c < channels; c++) for (let i = 0; i < height * width; i++) {
    const [r, g, b] = data.subarray(4 * i, 4 * i + 3);
    found.push((channels === 3 ? [r, g, b][c] : .299 * r + .587 * g + .114 * b) / 255);
  }
  return found;
}

function numbers() {
  const found = at("numbers").value.split(/[\s,;]+/).filter(Boolean).map(Number), wanted = shape.reduce((a, b) => a * b, 1);
  if (found.length !== wanted || found.some(value => !Number.isFinite(value))) throw new Error(`The model takes ${wanted} numbers. Found ${found.filter(Number.isFinite).length}.`);
  return found;
}

async function send() {
  tell("");
  at("send").disabled = true;
  try {
    const data = at("picture").hidden ? numbers() : pixels();
    const found = await ask("POST", `v2/models/${model}/infer`, {inputs: [{name: "input", datatype: "FP32", shape: [1, ...shape], data}]});
    show(found.outputs[0].data);
  } finally {
    await account().catch(() => {});
    at("send").disabled = false;
  }
}

function show(row) {
  const order = row.map((p, i) => [p, i]).sort((a, b) => b[0] - a[0]).slice(0, 10);
  at("none").hidden = true;
  at("bars").replaceChildren(...order.map(([p, i]) => {
    const li = document.createElement("li"), name = document.createElement("span"), bar = document.createElement("span"), n = document.createElement("span");
    name.textContent = names[i];
    bar.className = "bar";
    bar.style.setProperty("--share", p);
    n.textContent = `${(100 * p).toFixed(1)} %`;
    n.className = "n";
    li.append(name, bar, n);
    return li;
  }));
}

let last = null;
function place(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
}
function stroke(event) {
  if (!last) return;
  const next = place(event);
  pen.strokeStyle = "#fff";
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = Math.max(1, canvas.width / 14);
  pen.beginPath();
  pen.moveTo(...last);
  pen.lineTo(...next);
  pen.stroke();
  last = next;
}
canvas.addEventListener("pointerdown", event => { last = place(event); canvas.setPointerCapture(event.pointerId); stroke(event); });
canvas.addEventListener("pointermove", stroke);
canvas.addEventListener("pointerup", () => { last = null; });
canvas.addEventListener("pointercancel", () => { last = null; });

async function open() {
  const [file] = at("file").files;
  if (!file) return;
  const picture = await createImageBitmap(file).catch(() => { throw new Error(`"${file.name}" is not a picture that this browser opens.`); });
  const scale = Math.max(canvas.width / picture.width, canvas.height / picture.height);
  const width = picture.width * scale, height = picture.height * scale;
  clear();
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
  at("file").value = "";
}

at("enter").addEventListener("submit", guarded(connect));
at("model").addEventListener("change", guarded(choose));
at("send").addEventListener("click", guarded(send));
at("clear").addEventListener("click", clear);
at("file").addEventListener("change", guarded(open));
