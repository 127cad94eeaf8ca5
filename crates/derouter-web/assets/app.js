// Keeps pages live, copies text, and streams chats. Everything else works without.
"use strict";
(() => {
  const body = document.body;
  const csrf = body.dataset.csrf;

  document.addEventListener("htmx:configRequest", (event) => {
    event.detail.headers["x-csrf-token"] = csrf;
  });

  // --- what is shown is asked for anew when it changed. A tab that nobody sees gives its stream back:
  // a browser has few connections for one server.
  const topic = body.dataset.topic;
  let version = body.dataset.version;
  let stream = null;
  let asking = false;
  let again = false;

  const isBusy = () => {
    const live = document.getElementById("live");
    const selection = document.getSelection();
    const selects = selection && !selection.isCollapsed && live && live.contains(selection.anchorNode);
    const active = document.activeElement;
    const types = active && live && live.contains(active) && active.matches("input, select, textarea");
    return selects || types;
  };

  const refresh = async () => {
    if (asking) { again = true; return; }
    if (isBusy()) { setTimeout(refresh, 2000); return; }
    asking = true;
    const open = [...document.querySelectorAll("#live details[open][id]")].map((it) => it.id);
    const scrolled = new Map([...document.querySelectorAll("#live .scroll[aria-label]")].map((it) => [it.getAttribute("aria-label"), it.scrollLeft]));
    try {
      await htmx.ajax("GET", location.pathname + location.search, { target: "#live", select: "#live", swap: "outerHTML" });
      for (const id of open) document.getElementById(id)?.setAttribute("open", "");
      for (const it of document.querySelectorAll("#live .scroll[aria-label]")) it.scrollLeft = scrolled.get(it.getAttribute("aria-label")) ?? 0;
      addCopyButtons();
    } finally {
      asking = false;
      if (again) { again = false; setTimeout(refresh, 1000); }
    }
  };

  const listen = () => {
    if (!topic || stream || document.hidden) return;
    stream = new EventSource(`/events?topic=${encodeURIComponent(topic)}&since=${version}`);
    stream.addEventListener("changed", (event) => { version = event.data; refresh(); });
  };
  const rest = () => { stream?.close(); stream = null; };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) rest(); else listen();
  });
  window.addEventListener("pagehide", rest);
  window.addEventListener("pageshow", listen);

  // --- copying
  const say = (text) => {
    const said = document.getElementById("said");
    if (!said) return;
    said.textContent = text;
    said.classList.add("shown");
    setTimeout(() => said.classList.remove("shown"), 1500);
  };
  function addCopyButtons() {
    for (const box of document.querySelectorAll("[data-copy]:not([data-ready])")) {
      box.dataset.ready = "";
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "Copy";
      button.setAttribute("aria-label", "Copy: " + box.dataset.copy);
      button.addEventListener("click", async () => {
        try { await navigator.clipboard.writeText(box.querySelector("pre").textContent); say("Copied"); }
        catch { say("The browser does not let this page copy"); }
      });
      box.append(button);
    }
  }

  // --- chats: each side asks its own provider, and shows tokens as they come
  const prices = JSON.parse(document.getElementById("chat")?.dataset.prices ?? "{}");
  const ask = async (side, prompt, history) => {
    const answer = side.querySelector(".answer");
    const figures = side.querySelector(".answer-figures");
    const [peer, model] = [side.querySelector("select[name=provider]").value, side.querySelector("select[name=model]").value];
    const body = { model, stream: true, stream_options: { include_usage: true }, max_tokens: Number(document.getElementById("max").value) || 512,
      messages: [...history, { role: "user", content: prompt }] };
    if (peer) body.derouter = { only: [peer] };
    const begin = performance.now();
    let first = null, text = "", usage = null, price = null, head = "";
    answer.textContent = "";
    figures.textContent = "asking…";
    const seconds = (ms) => (ms / 1000).toFixed(2) + " s";
    const show = (end) => {
      const parts = [];
      if (first !== null) parts.push("first token " + seconds(first - begin));
      if (usage) {
        parts.push(usage.prompt_tokens + " in, " + usage.completion_tokens + " out");
        if (end && first !== null && end > first) parts.push((usage.completion_tokens / ((end - first) / 1000)).toFixed(1) + " tokens/s");
      }
      if (usage && price) parts.push(Number(((usage.prompt_tokens * price[0] + usage.completion_tokens * price[1]) / 1e6).toPrecision(4)) + " POL");
      if (head) parts.push(head);
      figures.textContent = parts.join(" · ");
    };
    try {
      const response = await fetch("/chat", { method: "POST", headers: { "content-type": "application/json", "x-csrf-token": csrf }, body: JSON.stringify(body) });
      if (!response.ok) {
        let message = await response.text();
        try { message = JSON.parse(message).error.message; } catch { /* it is text */ }
        answer.textContent = message;
        figures.textContent = "refused (" + response.status + ")";
        return null;
      }
      price = prices[`${response.headers.get("x-derouter-provider")}/${response.headers.get("x-derouter-offer")}`] ?? null;
      const by = response.headers.get("x-derouter-provider");
      const path = response.headers.get("x-derouter-path");
      head = [by && "by …" + by.slice(-8), path].filter(Boolean).join(" · ");
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        rest += value;
        const lines = rest.split("\n");
        rest = lines.pop();
        for (const line of lines) {
          if (!line.startsWith("data:")) continue;
          const data = line.slice(5).trim();
          if (!data || data === "[DONE]") continue;
          const event = JSON.parse(data);
          if (event.error) { text += "\n" + event.error.message; continue; }
          const delta = event.choices?.[0]?.delta;
          const piece = delta?.content ?? delta?.reasoning_content ?? "";
          if (piece && first === null) first = performance.now();
          text += piece;
          if (event.usage) usage = event.usage;
        }
        answer.textContent = text;
        show(null);
      }
      show(performance.now());
      return text;
    } catch (error) {
      answer.textContent = text + "\n" + error;
      figures.textContent = "broke off";
      return null;
    }
  };

  const chat = document.getElementById("chat");
  chat?.addEventListener("submit", async (event) => {
    event.preventDefault();
    const prompt = document.getElementById("prompt").value.trim();
    if (!prompt) return;
    const button = chat.querySelector("button[type=submit]");
    button.disabled = true;
    const sides = [...document.querySelectorAll("[data-side]")].filter((side) => side.querySelector("select[name=model]").value);
    await Promise.all(sides.map((side) => ask(side, prompt, [])));
    button.disabled = false;
    document.getElementById("prompt").focus();
  });

  document.addEventListener("submit", (event) => {
    const question = event.target.dataset?.confirm;
    if (question && !confirm(question)) event.preventDefault();
  });

  addCopyButtons();
  listen();
})();
