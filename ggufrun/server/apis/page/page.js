// The page of `ggufrun serve`: conversations kept in this browser, answers streamed from the server that sent the page.
"use strict";

const WORDS = {
  en: {
    new: "New conversation", export: "Export", import: "Import", look: "Light/dark", settings: "Settings", send: "Send",
    stop: "Stop", picture: "Picture", system: "System prompt", temperature: "Temperature", max_tokens: "Longest answer (tokens)",
    key: "API key of this server", close: "Close", hello: "Ask something.", ask: "Message (Enter sends, Shift+Enter is a new line)",
    again: "Again", edit: "Edit", copy: "Copy", remove: "Delete", thoughts: "Thoughts", speed: "tokens/s", used: "tokens of context",
    nobody: "no models here", gone: "The answer broke off: ", unread: "This file holds no conversations.", untitled: "Empty",
    loading: "loading the model", sure: "Delete this conversation?", full: "The browser's store is full: export and delete conversations.",
  },
  zh: {
    new: "新对话", export: "导出", import: "导入", look: "明/暗", settings: "设置", send: "发送",
    stop: "停止", picture: "图片", system: "系统提示词", temperature: "温度", max_tokens: "回答上限（词元）",
    key: "本服务器的 API 密钥", close: "关闭", hello: "请提问。", ask: "消息（回车发送，Shift+回车换行）",
    again: "重新生成", edit: "编辑", copy: "复制", remove: "删除", thoughts: "思考过程", speed: "词元/秒", used: "词元上下文",
    nobody: "没有模型", gone: "回答中断：", unread: "此文件中没有对话。", untitled: "空对话",
    loading: "正在加载模型", sure: "删除这个对话？", full: "浏览器存储已满：请导出并删除一些对话。",
  },
};
const NUMBERS = ["temperature", "max_tokens", "top_p", "top_k", "repeat_penalty", "seed"];
const STORE = "ggufrun";
const RENDER_EVERY = 250;

const $ = (id) => document.getElementById(id);
const stored = read();
let models = [];
let pictures = [];
let running = null;

function read() {
  let found = null;
  try { found = JSON.parse(localStorage.getItem(STORE)); } catch { /* not ours, or none */ }
  const clean = { talks: [], current: 0, model: "", system: "", numbers: {}, key: "", look: "", language: "" };
  return found && Array.isArray(found.talks) ? { ...clean, ...found } : clean;
}

function save() {
  try { localStorage.setItem(STORE, JSON.stringify(stored)); } catch { notice(say("full")); }
}

function say(name) { return WORDS[stored.language][name]; }

function element(kind, classes, text) {
  const made = document.createElement(kind);
  if (classes) made.className = classes;
  if (text !== undefined) made.textContent = text;
  return made;
}

function button(name, act) {
  const made = element("button", "plain", say(name));
  made.type = "button";
  made.onclick = act;
  return made;
}

function talk() {
  if (!stored.talks.length) stored.talks.push({ title: "", messages: [] });
  stored.current = Math.min(Math.max(stored.current, 0), stored.talks.length - 1);
  return stored.talks[stored.current];
}

function headers() {
  const found = { "Content-Type": "application/json" };
  if (stored.key) found.Authorization = "Bearer " + stored.key;
  return found;
}

async function failure(response) {
  try { return (await response.json()).error.message; } catch { return response.status + " " + response.statusText; }
}

// --- what is shown ---------------------------------------------------------------------------------------------------

function words() {
  document.documentElement.lang = stored.language;
  for (const one of document.querySelectorAll("[data-say]")) one.textContent = say(one.dataset.say);
  $("text").placeholder = say("ask");
  $("language").textContent = stored.language === "zh" ? "English" : "中文";
}

function look() {
  const dark = stored.look ? stored.look === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.look = dark ? "dark" : "light";
}

function list() {
  $("talks").replaceChildren(...stored.talks.map((one, index) => {
    const item = element("li");
    item.setAttribute("aria-current", index === stored.current);
    const open = element("button", "", one.title || say("untitled"));
    open.onclick = () => { if (!running) { stored.current = index; $("side").classList.remove("open"); all(); } };
    const away = button("remove", () => {
      if (running || (one.messages.length && !confirm(say("sure")))) return;
      stored.talks.splice(index, 1);
      if (index < stored.current) stored.current -= 1;
      all();
    });
    away.textContent = "×";
    away.setAttribute("aria-label", say("remove"));
    item.append(open, away);
    return item;
  }));
}

function all() {
  talk();
  save();
  words();
  list();
  const log = $("log");
  log.replaceChildren(...talk().messages.map((message, index) => shown(message, index)));
  if (!talk().messages.length) log.append(element("p", "hello", say("hello")));
  log.scrollTop = log.scrollHeight;
  const last = talk().messages.findLast((one) => one.used);
  const room = models.find((one) => one.id === $("model").value)?.meta.n_ctx;
  $("used").textContent = last ? `${last.used}${room ? " / " + room : ""} ${say("used")}` : "";
}

function shown(message, index) {
  const place = element("article", "said " + message.role);
  if (message.thoughts) {
    const thoughts = element("details");
    thoughts.append(element("summary", "", say("thoughts")), element("div", "", message.thoughts));
    place.append(thoughts);
  }
  for (const url of message.pictures || []) {
    const image = element("img");
    image.src = url;
    place.append(image);
  }
  const body = element("div", "body raw", message.text);
  place.append(body);
  if (message.role === "assistant" && message.text) render(message, body);
  if (message.problem) place.append(element("p", "problem", say("gone") + message.problem));
  const foot = element("div", "foot");
  if (message.role === "assistant") foot.append(button("again", () => again(index)));
  else foot.append(button("edit", () => edit(place, message, index)));
  foot.append(button("copy", () => navigator.clipboard?.writeText(message.text)));
  if (message.speed) foot.append(` ${message.model} · ${message.speed.toFixed(1)} ${say("speed")}`);
  place.append(foot);
  return place;
}

// The server turns Markdown into HTML in which nothing is active; what it sends is the only HTML that is put in here.
async function render(message, body) {
  const text = message.text;
  try {
    const response = await fetch("/render", { method: "POST", headers: headers(), body: JSON.stringify({ text }) });
    if (!response.ok) return;
    const { html } = await response.json();
    if (message.text.startsWith(text)) {
      body.innerHTML = html;
      body.classList.remove("raw");
    }
  } catch { /* the text stays as it is */ }
}

function notice(text) { $("log").append(element("p", "problem", text)); }

// --- talking ---------------------------------------------------------------------------------------------------------

function request(messages) {
  const sent = messages.filter((one) => one.text || one.pictures?.length).map((one) => ({
    role: one.role,
    content: one.pictures?.length
      ? [{ type: "text", text: one.text }, ...one.pictures.map((url) => ({ type: "image_url", image_url: { url } }))]
      : one.text,
  }));
  if (stored.system) sent.unshift({ role: "system", content: stored.system });
  const numbers = Object.fromEntries(Object.entries(stored.numbers).filter(([, value]) => value !== null));
  return { model: $("model").value, messages: sent, stream: true, stream_options: { include_usage: true }, ...numbers };
}

async function answer() {
  const messages = talk().messages;
  const body = JSON.stringify(request(messages));
  const message = { role: "assistant", text: "", thoughts: "", model: $("model").value };
  messages.push(message);
  all();
  running = new AbortController();
  $("send").hidden = true;
  $("stop").hidden = false;
  const place = $("log").lastElementChild;
  const text = place.querySelector(".body");
  text.textContent = "…";
  let drawn = 0;
  const draw = (last) => {
    const log = $("log");
    const low = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    const now = performance.now();
    if (!last && now - drawn < RENDER_EVERY) return;
    drawn = now;
    if (message.text) {
      text.classList.add("raw");
      text.textContent = message.text;
      render(message, text).then(() => { if (low) log.scrollTop = log.scrollHeight; });
    } else text.textContent = message.thoughts || "…";
    if (low) log.scrollTop = log.scrollHeight;
  };
  try {
    const response = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body, signal: running.signal });
    if (!response.ok) throw new Error(await failure(response));
    await events(response, (event) => {
      if (event.error) throw new Error(event.error.message);
      const delta = event.choices?.[0]?.delta ?? {};
      message.text += delta.content ?? "";
      message.thoughts += delta.reasoning_content ?? "";
      if (event.timings) message.speed = event.timings.predicted_per_second;
      if (event.usage) message.used = event.usage.total_tokens;
      draw(false);
    });
  } catch (error) {
    if (error.name !== "AbortError") message.problem = error.message;
  }
  running = null;
  $("send").hidden = false;
  $("stop").hidden = true;
  draw(true);
  await fill();
  all();
  $("text").focus();
}

async function events(response, heard) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") heard(JSON.parse(line.slice(6)));
    }
  }
}

function send() {
  const text = $("text").value.trim();
  if (running || (!text && !pictures.length) || !$("model").value) return;
  const message = { role: "user", text };
  if (pictures.length) message.pictures = pictures;
  talk().messages.push(message);
  talk().title = talk().title || text.slice(0, 60);
  $("text").value = "";
  pictures = [];
  preview();
  grow();
  answer();
}

function again(index) {
  if (running) return;
  talk().messages.length = index;
  answer();
}

function edit(place, message, index) {
  if (running) return;
  const field = element("textarea", "", message.text);
  field.rows = Math.min(12, message.text.split("\n").length + 1);
  field.style.width = "100%";
  const done = () => {
    if (!field.value.trim()) return;
    talk().messages.length = index;
    talk().messages.push({ ...message, text: field.value.trim() });
    if (index === 0) talk().title = field.value.trim().slice(0, 60);
    answer();
  };
  field.onkeydown = (event) => {
    if (event.key === "Escape") all();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); done(); }
  };
  place.replaceChildren(field, button("send", done));
  field.focus();
}

// --- models, pictures, files -----------------------------------------------------------------------------------------

async function fill() {
  try {
    const response = await fetch("/v1/models", { headers: headers() });
    if (!response.ok) {
      if (response.status === 401) $("options").showModal();
      throw new Error(await failure(response));
    }
    models = (await response.json()).data.filter((one) => !one.capabilities.length || one.capabilities.includes("completion"));
  } catch (error) {
    notice(error.message);
    models = [];
  }
  const wanted = $("model").value || stored.model;
  $("model").replaceChildren(...models.map((one) => {
    const choice = element("option", "", one.id + (one.status.value === "loaded" ? " ●" : ""));
    choice.value = one.id;
    return choice;
  }));
  if (!models.length) $("model").append(element("option", "", say("nobody")));
  if (models.some((one) => one.id === wanted)) $("model").value = wanted;
  sees();
}

function sees() {
  const found = models.find((one) => one.id === $("model").value);
  $("add").hidden = !found?.capabilities.includes("vision");
}

function preview() {
  $("pictures").replaceChildren(...pictures.map((url) => {
    const image = element("img");
    image.src = url;
    image.onclick = () => { pictures = pictures.filter((one) => one !== url); preview(); };
    return image;
  }));
}

function take(files) {
  for (const file of files) {
    if (!file.type.startsWith("image/")) continue;
    const reader = new FileReader();
    reader.onload = () => { pictures = [...pictures, reader.result]; preview(); };
    reader.readAsDataURL(file);
  }
}

function download() {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify({ conversations: stored.talks }, null, 1)], { type: "application/json" }));
  link.download = "conversations.json";
  link.click();
  URL.revokeObjectURL(link.href);
}

function message(one) {
  if (!["user", "assistant"].includes(one?.role) || typeof one.text !== "string") return null;
  const found = { role: one.role, text: one.text };
  if (typeof one.thoughts === "string") found.thoughts = one.thoughts;
  if (typeof one.model === "string") found.model = one.model;
  if (typeof one.speed === "number") found.speed = one.speed;
  if (Array.isArray(one.pictures)) found.pictures = one.pictures.filter((url) => /^data:image\//.test(url));
  return found;
}

async function upload(file) {
  try {
    const found = JSON.parse(await file.text()).conversations;
    const talks = found.map((one) => ({ title: String(one.title ?? ""), messages: one.messages.map(message).filter(Boolean) }));
    stored.talks = [...talks, ...stored.talks];
    stored.current = 0;
    all();
  } catch { notice(say("unread")); }
}

function grow() {
  const field = $("text");
  field.style.height = "auto";
  field.style.height = Math.min(field.scrollHeight + 2, innerHeight * 0.4) + "px";
}

// --- what is pressed -------------------------------------------------------------------------------------------------

function begin() {
  if (!running) {
    stored.talks.unshift({ title: "", messages: [] });
    stored.talks = stored.talks.filter((one, index) => index === 0 || one.messages.length);
    stored.current = 0;
    $("side").classList.remove("open");
    all();
    $("text").focus();
  }
}

$("ask").onsubmit = (event) => { event.preventDefault(); send(); };
$("text").oninput = grow;
$("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
};
$("text").onpaste = (event) => { if (!$("add").hidden) take(event.clipboardData.files); };
$("stop").onclick = () => running?.abort();
$("new").onclick = begin;
$("menu").onclick = () => $("side").classList.toggle("open");
$("log").onclick = () => $("side").classList.remove("open");
$("model").onchange = () => { stored.model = $("model").value; save(); sees(); };
$("settings").onclick = () => $("options").showModal();
$("export").onclick = download;
$("import").onclick = () => $("file").click();
$("file").onchange = () => { if ($("file").files[0]) upload($("file").files[0]); $("file").value = ""; };
$("add").onclick = () => $("image").click();
$("image").onchange = () => { take($("image").files); $("image").value = ""; };
$("look").onclick = () => { stored.look = document.documentElement.dataset.look === "dark" ? "light" : "dark"; save(); look(); };
$("language").onclick = () => { stored.language = stored.language === "zh" ? "en" : "zh"; all(); };
$("options").onclose = () => {
  stored.system = $("system").value.trim();
  for (const name of NUMBERS) stored.numbers[name] = $(name).value === "" ? null : Number($(name).value);
  const other = stored.key !== $("key").value;
  stored.key = $("key").value;
  save();
  if (other) fill();
};
document.onkeydown = (event) => {
  if (event.key === "Escape" && running) running.abort();
  if (event.ctrlKey && event.shiftKey && event.key.toLowerCase() === "o") { event.preventDefault(); begin(); }
};
matchMedia("(prefers-color-scheme: dark)").onchange = look;

stored.language = stored.language || (navigator.language.startsWith("zh") ? "zh" : "en");
$("system").value = stored.system;
$("key").value = stored.key;
for (const name of NUMBERS) $(name).value = stored.numbers[name] ?? "";
look();
all();
fill().then(all);
