// Drives the dashboards of a buyer and a seller in a real browser, over real nodes. What it needs comes as
// JSON in the first argument; it ends with 0 when all held, and says what did not.
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const { buyer, seller, gateway, models, chromium: executablePath, shots } = JSON.parse(process.argv[2]);
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const TIMEOUT = 60_000;
const PAGES = ["/", "/offers", `/model?model=${models[0]}`, "/chat", "/jobs", "/money", "/network", "/provide", "/modules", "/settings", "/logs"];
const ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

const troubles = [];
const trouble = (text) => { troubles.push(text); console.error("trouble:", text); };
const step = (text) => console.log("-", text);

async function browser(options = {}) {
  const directory = await mkdtemp(join(tmpdir(), "derouter-browser-"));
  const context = await chromium.launchPersistentContext(directory, {
    executablePath, headless: true, args: ARGS, viewport: { width: 1280, height: 800 }, ...options,
  });
  context.setDefaultTimeout(TIMEOUT);
  const origins = new Set([new URL(buyer.url).origin, new URL(seller.url).origin]);
  context.on("request", (request) => {
    if (!origins.has(new URL(request.url()).origin)) trouble(`a request to ${request.url()}`);
  });
  context.on("page", watch);
  context.pages().forEach(watch);
  return { context, close: async () => { await context.close(); await rm(directory, { recursive: true, force: true }); } };
}

function watch(page) {
  page.on("console", (message) => { if (message.type() === "error") trouble(`console on ${page.url()}: ${message.text()}`); });
  page.on("pageerror", (error) => trouble(`script on ${page.url()}: ${error}`));
  page.on("dialog", (dialog) => dialog.accept());
}

// A link opens one session; more come from the same door as `derouter open` uses.
async function enter(context, node) {
  const answer = await fetch(node.url + "/launch", { method: "POST", headers: { authorization: `Bearer ${node.secret}` } });
  assert.equal(answer.status, 200);
  const page = await context.newPage();
  await page.goto(node.url + (await answer.json()).path);
  assert.equal(new URL(page.url()).pathname, "/");
  return page;
}

async function shot(page, name, options = {}) {
  if (shots) await page.screenshot({ path: join(shots, name + ".png"), animations: "disabled", ...options });
}

async function check(page, what) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  for (const violation of found.violations) {
    const nodes = violation.nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(" | ");
    if (["serious", "critical"].includes(violation.impact)) trouble(`${what}: ${violation.id}: ${violation.help}: ${nodes}`);
  }
}

// What is wider than a usual screen would have to be scrolled sideways.
async function fits(page, what) {
  const wide = await page.evaluate(() => [...document.querySelectorAll(".scroll")].filter((it) => it.scrollWidth > it.clientWidth)
    .map((it) => `${it.getAttribute("aria-label")} (${it.scrollWidth} of ${it.clientWidth})`));
  if (wide.length) trouble(`${what} scrolls sideways: ${wide.join(", ")}`);
}

async function buy(model, key, options = {}) {
  return fetch(gateway + "/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
    body: JSON.stringify({ model, max_tokens: 64, messages: [{ role: "user", content: "Why trade with peers?" }], ...options }),
  });
}

const main = await browser();
try {
  step("the overview");
  const page = await enter(main.context, buyer);
  await page.getByText("Serving").waitFor();
  await page.locator(".figure", { hasText: "Peers" }).getByText("1", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Copy: base URL" }).waitFor();
  assert.ok((await page.content()).includes(gateway));
  // The chart goes on by itself.
  await page.locator("#pulse canvas").waitFor();
  const drawn = () => page.evaluate(async () => (await (await fetch("/pulse")).json()).at.length);
  const beats = await drawn();
  await page.waitForFunction(async (count) => (await (await fetch("/pulse")).json()).at.length > count, beats);
  for (const name of ["Python", "JavaScript", "Open WebUI"]) await page.getByText(name, { exact: true }).first().click();
  for (const name of ["Python", "JavaScript", "Open WebUI"]) await page.getByText(name, { exact: true }).first().click();

  step("the keyboard");
  await page.reload();
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => location.hash), "#content");

  step("offers come, are measured, filtered, sorted and compared");
  await page.goto(buyer.url + "/offers");
  for (const model of models) await page.locator("td", { hasText: model }).first().waitFor();
  for (const model of models) for (let turn = 0; turn < 2; turn++) {
    const answer = await buy(model, "any", { stream: true });
    assert.equal(answer.status, 200);
    await answer.text();
  }
  // Without a reload: what was measured shows.
  await page.waitForFunction(() => ![...document.querySelectorAll("#live tbody tr")].every((row) => row.children[5].textContent.trim() === "–"));
  await page.getByLabel("Sort by").selectOption("context");
  await page.getByRole("searchbox").fill(models[1]);
  await page.getByRole("button", { name: "Show" }).click();
  assert.equal(await page.locator("#live tbody tr").count(), 1);
  await page.goto(buyer.url + "/offers");
  await page.getByRole("link", { name: "Compare", exact: true }).first().click();
  await page.getByRole("link", { name: "Compare", exact: true }).first().click();
  await page.getByRole("heading", { name: "Compared" }).waitFor();
  await page.goto(buyer.url + "/offers");
  await fits(page, "/offers");
  await shot(page, "offers");
  await page.getByRole("link", { name: "Details" }).first().click();
  await page.getByRole("heading", { name: "Price history" }).waitFor();
  await check(page, "an offer");
  await shot(page, "offer");
  await page.getByRole("button", { name: "Block" }).click();
  await page.getByText("Blocked.").waitFor();
  assert.notEqual((await buy(models[0], "any")).status, 200, "a blocked provider is not asked");
  await page.getByRole("button", { name: "Neither" }).click();
  await page.getByText("Neither pinned nor blocked.").waitFor();
  await page.getByRole("button", { name: "Pin" }).click();
  await page.getByText("Pinned.").waitFor();
  assert.equal((await buy(models[0], "any")).status, 200);
  await page.getByRole("button", { name: "Neither" }).click();

  step("a model's price is calculated, and who would be asked first");
  await page.goto(`${buyer.url}/model?model=${models[0]}`);
  await page.getByLabel("Tokens of the prompt").fill("100000");
  await page.getByLabel("Tokens of the answer").fill("10000");
  await page.getByRole("button", { name: "Calculate" }).click();
  await page.getByText("first choice").waitFor();
  const cost = await page.locator("table").first().locator("tbody td.num").first().textContent();
  assert.equal(cost.trim(), "0.12", "1 POL and 2 POL for 1,000,000 tokens");
  await shot(page, "model");

  step("a chat with two models side by side");
  await page.goto(buyer.url + "/chat");
  const sides = page.locator("[data-side]");
  await sides.nth(0).locator("select[name=model]").selectOption(models[0]);
  await sides.nth(1).locator("select[name=model]").selectOption(models[1]);
  await page.getByLabel("Your question").fill("Say some words");
  await page.getByRole("button", { name: "Send" }).click();
  for (const side of [0, 1]) {
    await sides.nth(side).locator(".answer-figures", { hasText: "tokens/s" }).waitFor();
    assert.match(await sides.nth(side).locator(".answer-figures").textContent(), /first token .* in, .* out .* POL .* by/);
    assert.ok((await sides.nth(side).locator(".answer").textContent()).length > 10);
  }
  await shot(page, "chat");
  await check(page, "a chat with answers");

  step("jobs, one with its timeline, a proof, a file");
  await page.goto(buyer.url + "/jobs");
  await page.locator("tbody tr", { hasText: "signed" }).first().waitFor();
  const before = await page.locator("tbody tr").count();
  assert.ok(before >= 8, `${before} jobs`);
  await (await buy(models[0], "any")).text();
  await page.waitForFunction((count) => document.querySelectorAll("#live tbody tr").length > count, before);
  await shot(page, "jobs");
  await page.locator("tbody a").first().click();
  await page.getByText("the provider has the signature").waitFor();
  const proof = await page.evaluate(async (path) => (await fetch(path)).text(), new URL(page.url()).pathname + "/proof");
  assert.ok(JSON.parse(proof), "a proof is JSON");
  await shot(page, "job");
  await check(page, "a job");
  const csv = await page.evaluate(async () => (await fetch("/jobs.csv")).text());
  assert.ok(csv.startsWith("job,id,side,") && csv.split("\n").length > before);

  step("a key is made, refused at its limit, and revoked");
  await page.goto(buyer.url + "/money");
  await page.getByText("Make a key").click();
  await page.locator("#new-key input[name=name]").fill("ci");
  await page.locator("#new-key input[name=total]").fill("0.0000001");
  await page.getByRole("button", { name: "Make the key" }).click();
  await page.getByText("This is the new key").waitFor();
  const key = (await page.locator("[data-copy='the new key'] pre").textContent()).trim();
  await page.waitForTimeout(1500);
  assert.equal((await buy(models[0], "any")).status, 401, "now a key is needed");
  const refused = await buy(models[0], key);
  assert.equal(refused.status, 402);
  assert.match((await refused.json()).error.code, /^spending_limit_key/);
  await page.goto(buyer.url + "/money");
  await page.getByText("Make a key").click();
  await page.locator("#new-key input[name=name]").fill("laptop");
  await page.locator("#new-key input[name=daily]").fill("5");
  await page.getByRole("button", { name: "Make the key" }).click();
  const good = (await page.locator("[data-copy='the new key'] pre").textContent()).trim();
  await page.waitForTimeout(1500);
  assert.equal((await buy(models[0], good)).status, 200);
  await page.goto(buyer.url + "/money");
  await page.getByRole("button", { name: "Revoke ci" }).click();
  await page.getByText("The key is revoked.").waitFor();
  await page.waitForTimeout(1500);
  assert.equal((await buy(models[0], key)).status, 401);
  await page.goto(buyer.url + "/money");
  await shot(page, "money");

  step("an offer is published, bought, paused and removed");
  const sold = await enter(main.context, seller);
  await page.goto(buyer.url + "/offers?q=browser-model");
  await page.getByText("No offer fits.").waitFor();
  await sold.goto(seller.url + "/provide");
  await sold.locator("#edit input[name=id]").fill("browser-offer");
  await sold.locator("#edit input[name=model]").fill("browser-model");
  await sold.locator("#edit input[name=input_price]").fill("0.5");
  await sold.locator("#edit input[name=output_price]").fill("1.5");
  await sold.getByRole("button", { name: "Save" }).click();
  const row = sold.locator("tbody tr", { hasText: "browser-offer" });
  await row.getByText("on the market").waitFor();
  // The buyer's page shows it without a reload.
  await page.locator("#live td", { hasText: "browser-model" }).first().waitFor();
  assert.equal((await buy("browser-model", good)).status, 200);
  await row.getByRole("button", { name: "Test browser-offer" }).click();
  await sold.getByText("The test went well").waitFor();
  await shot(sold, "provide");
  await row.getByRole("button", { name: "Pause browser-offer" }).click();
  await row.getByText("paused", { exact: true }).waitFor();
  await page.getByText("No offer fits.").waitFor();
  assert.notEqual((await buy("browser-model", good)).status, 200);
  await row.getByRole("button", { name: "Resume browser-offer" }).click();
  await page.locator("#live td", { hasText: "browser-model" }).first().waitFor();
  await row.getByRole("button", { name: "Remove browser-offer" }).click();
  await sold.getByText("Removed.").waitFor();
  await page.getByText("No offer fits.").waitFor();

  step("the other pages");
  await page.goto(buyer.url + "/network");
  await page.locator("tbody tr").first().waitFor();
  await page.getByText("lan", { exact: true }).first().waitFor();
  await shot(page, "network");
  await page.goto(buyer.url + "/settings?q=limits");
  await page.getByText("openai.consumer.limits.daily").waitFor();
  await shot(page, "settings");
  await page.goto(buyer.url + "/logs");
  await page.locator("tbody tr").first().waitFor();
  await shot(page, "logs", { clip: { x: 0, y: 0, width: 1280, height: 520 } });
  await page.goto(buyer.url + "/modules");
  await page.getByText("in this process").first().waitFor();
  await shot(page, "modules");
  await page.goto(buyer.url + "/");
  const asked = await (await buy(models[0], good)).json();
  assert.ok(asked.usage.completion_tokens > 0);
  await page.waitForFunction(() => !document.getElementById("pulse-now").textContent.includes(" 0 tokens."));
  await shot(page, "overview");

  step("every page in light and dark, for screen readers, and 390 pixels wide");
  for (const node of [{ page, url: buyer.url }, { page: sold, url: seller.url }]) {
    for (const path of PAGES) {
      for (const colorScheme of ["light", "dark"]) {
        await node.page.emulateMedia({ colorScheme });
        await node.page.goto(node.url + path);
        await check(node.page, `${path} ${colorScheme}`);
      }
      await fits(node.page, path);
      await node.page.setViewportSize({ width: 390, height: 844 });
      const wide = await node.page.evaluate(() => document.documentElement.scrollWidth);
      if (wide > 390) trouble(`${path} is ${wide} pixels wide on a phone`);
      await check(node.page, `${path} on a phone`);
      await node.page.setViewportSize({ width: 1280, height: 800 });
    }
  }
  await page.emulateMedia({ colorScheme: "dark" });
  await page.goto(buyer.url + "/");
  await shot(page, "overview-dark");
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 390, height: 844 });
  await page.goto(buyer.url + "/");
  await shot(page, "overview-phone");
  await page.goto(buyer.url + "/offers");
  await shot(page, "offers-phone");
  await page.setViewportSize({ width: 1280, height: 800 });

  step("logging out");
  await page.getByRole("button", { name: "Log out" }).click();
  await page.getByText("derouter open").waitFor();
  await page.goto(buyer.url + "/jobs");
  assert.equal(new URL(page.url()).pathname, "/login");
} catch (error) {
  // What people would have seen.
  for (const page of main.context.pages()) {
    const seen = await page.locator("body").innerText().catch(() => "");
    console.error(`${page.url()} showed:\n${seen.slice(0, 3000)}\n`);
  }
  throw error;
} finally {
  await main.close();
}

step("reading without JavaScript");
const still = await browser({ javaScriptEnabled: false });
try {
  const page = await enter(still.context, buyer);
  for (const path of PAGES) {
    const answer = await page.goto(buyer.url + path);
    assert.equal(answer.status(), 200);
    assert.ok((await page.locator("main").textContent()).length > 40, path);
  }
  await page.goto(buyer.url + "/");
  assert.equal(await page.locator("#pulse svg polyline").count(), 2, "a chart without a script");
} finally {
  await still.close();
}

assert.deepEqual(troubles, []);
console.log("all held");
