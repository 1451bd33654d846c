// Tests of the chat with the real server and a real browser.

import assert from "node:assert/strict";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { after, before, test } from "node:test";
import axe from "axe-core";
import { chromium } from "playwright-core";

import { Network, Server } from "./server.js";
import { Tab, until } from "./tab.js";

const codecs = ["json", "protobuf", "flatbuffers", "msgpack"];
const artifacts = new URL("artifacts/", import.meta.url);
const args = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync";

let server, network, browser;

before(async () => {
  rmSync(artifacts, { recursive: true, force: true });
  server = new Server();
  await server.start();
  network = new Network(server.url);
  await network.start();
  // Every launch has a new, empty profile.
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [...args.split(" "), "--host-resolver-rules=MAP insecure.test 127.0.0.1"],
    timeout: 60_000,
  });
});

after(async () => {
  await browser?.close();
  network?.dispose();
  await server?.dispose();
});

/**
 * Defines a test with its own tabs. If the test fails or a page reports an
 * error, screenshots and logs are saved.
 */
function scenario(name, options, run) {
  test(name, { timeout: 120_000 }, async () => {
    const context = await browser.newContext({ locale: "en-GB", reducedMotion: "reduce", viewport: { width: 1000, height: 640 }, ...options });
    const tabs = [];
    const open = async ({ through = server, ...how }) => {
      const tab = await Tab.open(context, through.url, how);
      tabs.push(tab);
      return tab;
    };
    const visit = async (path) => {
      const tab = new Tab(await context.newPage());
      tabs.push(tab);
      await tab.page.goto(server.url + path);
      return tab;
    };
    try {
      await run({ open, visit, tabs });
      for (const tab of tabs) assert.deepEqual(tab.errors, [], `errors of ${tab.name}`);
    } catch (error) {
      await saveArtifacts(name, tabs);
      throw error;
    } finally {
      await context.close();
    }
  });
}

async function saveArtifacts(name, tabs) {
  mkdirSync(artifacts, { recursive: true });
  const prefix = name.replace(/\W+/g, "-");
  for (const [i, tab] of tabs.entries()) {
    const base = new URL(`${prefix}-${i + 1}`, artifacts).pathname;
    writeFileSync(`${base}.log`, tab.console.join("\n") + "\n");
    if (!tab.page.isClosed()) await tab.page.screenshot({ path: `${base}.png` }).catch(() => {});
  }
  writeFileSync(new URL(`${prefix}-server.log`, artifacts), server.log);
  console.error(`screenshots and logs are in ${artifacts.pathname}`);
}

const members = (tabs) => tabs.map((tab) => tab.entry).sort();

/** Waits until every tab lists exactly these tabs as members. */
async function waitForMembers(tabs) {
  for (const tab of tabs) await until(`${tab.name}'s list of members`, () => tab.members(), members(tabs));
}

/** Sends messages from all tabs at once, and checks that all tabs show the same messages in the same order. */
async function exchange(tabs, { before = 0, each = 3, topic }) {
  await Promise.all(
    tabs.map(async (tab) => {
      for (let i = 1; i <= each; i++) await tab.say(`${topic} ${i} of ${tab.name}`);
    }),
  );
  const count = before + each * tabs.length;
  for (const tab of tabs) {
    await until(`${tab.name} shows all messages`, async () => {
      const texts = await tab.messages();
      return { count: texts.length, unconfirmed: texts.filter((text) => text.startsWith("(")) };
    }, { count, unconfirmed: [] });
  }
  const [first, ...others] = await Promise.all(tabs.map((tab) => tab.messages()));
  for (const other of others) assert.deepEqual(other, first, "all tabs show the same order");
  for (const { name } of tabs) {
    assert.deepEqual(
      first.slice(before).filter((text) => text.endsWith(` of ${name}`)),
      Array.from({ length: each }, (_, i) => `${topic} ${i + 1} of ${name}`),
      "the messages of each tab keep their order",
    );
  }
  return count;
}

/** Checks that the table of sizes contains the length, with the header, of a received frame. */
async function checkSizes(tabs) {
  const shown = [];
  for (const tab of tabs) {
    const sizes = await tab.sizes();
    assert.deepEqual(Object.keys(sizes), codecs);
    const lengths = new Set(tab.frames.map((frame) => Buffer.byteLength(frame)).map((n) => n + (n < 126 ? 2 : 4)));
    assert.ok(lengths.has(sizes[tab.codec]), `${tab.codec}: a frame of ${sizes[tab.codec]} bytes was received`);
    shown.push(tab.sealed ? Object.fromEntries(Object.entries(sizes).map(([codec, bytes]) => [codec, bytes - 60])) : sizes);
  }
  // Sealing may lengthen a payload to 126 bytes or more, whose header is two bytes longer.
  for (const sizes of shown.slice(1)) {
    for (const codec of codecs) assert.ok(Math.abs(sizes[codec] - shown[0][codec]) <= 2, `${codec} is the same for all`);
  }
  assert.ok(shown[0].protobuf < shown[0].msgpack && shown[0].msgpack < shown[0].json);
}

for (const { tabsSealed, sealed, signal } of [
  { tabsSealed: "all sealed", sealed: [true, true, true, true], signal: "SIGKILL" },
  { tabsSealed: "two of them sealed", sealed: [false, true, true, false], signal: "SIGTERM" },
]) {
  scenario(`four tabs with four codecs, ${tabsSealed}, and a server that restarts`, {}, async ({ open }) => {
    const room = `room of ${tabsSealed}`;
    const tabs = [];
    for (const [i, codec] of codecs.entries()) {
      tabs.push(await open({ name: ["Ann", "Ben", "Cleo", "Dan"][i], codec, sealed: sealed[i], room }));
      await waitForMembers(tabs);
    }
    const outsider = await open({ name: "Olga", room: `not the ${room}` });
    await until("the statistics count all connections", () => outsider.stat("connections"), 5);
    const delivered = await outsider.stat("delivered");

    let count = await exchange(tabs, { topic: "hello" });
    await checkSizes(tabs);
    await until("the statistics are updated", async () => (await outsider.stat("delivered")) >= delivered + 4 * count, true);

    // A message of the room for the outsider would arrive before its own message.
    await outsider.say("alone here");
    await until("the outsider receives its own message", () => outsider.messages(), ["alone here"]);
    assert.ok(!outsider.frames.some((frame) => frame.includes("hello 1")), "the outsider received no message of the room");
    for (const tab of tabs) assert.equal((await tab.messages()).includes("alone here"), false);

    const [ann, ben, cleo, dan] = tabs;
    await dan.page.close();
    await waitForMembers([ann, ben, cleo]);
    await until("the tabs show that Dan left", async () => (await ann.notices()).at(-1), "Dan left");
    const late = await open({ name: "Dan", codec: "msgpack", sealed: sealed[3], room });
    tabs[3] = late;
    await waitForMembers(tabs);
    await until("the tabs show that Dan joined", async () => (await ann.notices()).at(-1), `Dan joined with ${late.entry.slice(5)}`);
    await until("a tab that joins late shows the earlier messages", () => late.messages(), await ann.messages());

    const allTabs = [...tabs, outsider];
    for (const tab of allTabs) tab.serverIsAway = true;
    await server.stop(signal);
    for (const tab of allTabs) {
      await until("the page shows that the connection is lost", () => tab.$("connection-text").textContent(), "No connection, trying again…");
    }
    await server.start();
    for (const tab of allTabs) await tab.isConnected();
    for (const tab of allTabs) tab.serverIsAway = false;
    await waitForMembers(tabs);
    for (const tab of tabs) {
      const loss = /^No connection from \S+ to \S+\. Messages may be missing\.$/;
      await until("each tab says once that messages may be missing", async () => (await tab.notices()).filter((text) => loss.test(text)).length, 1);
      await until("the status shows the connection", () => tab.$("connection-text").textContent(), `Connected: ${tab.entry.slice(tab.name.length + 2)}`);
    }
    await exchange(tabs, { topic: "again", before: count });
    await checkSizes(tabs);
  });
}

scenario("a connection that is cut", {}, async ({ open }) => {
  const room = "cut";
  const ben = await open({ name: "Ben", codec: "protobuf", room });
  await ben.say("hello");
  const [ann, cleo] = [
    await open({ through: network, name: "Ann", codec: "msgpack", sealed: true, room }),
    await open({ through: network, name: "Cleo", room }),
  ];
  const tabs = [ann, ben, cleo];
  await waitForMembers(tabs);
  const before = await ann.notices();
  for (const tab of [ann, cleo]) tab.serverIsAway = true;

  network.cut();
  for (const tab of [ann, cleo]) {
    await until("the page shows that the connection is lost", () => tab.$("connection-text").textContent(), "No connection, trying again…");
  }
  await ben.say("can you hear me?");
  await ann.say("not yet");
  await until("the messages wait", async () => [(await ann.messages()).at(-1), (await ben.messages()).at(-1)], ["(not yet)", "can you hear me?"]);
  network.mend();
  await until("the page says that nothing is missing", () => cleo.$("connection-text").textContent(), "Reconnected, nothing missed");
  for (const tab of tabs) await until("all messages are shown", () => tab.messages(), ["hello", "can you hear me?", "not yet"]);
  await waitForMembers(tabs);

  // Messages whose connection ends before the hub can confirm them.
  const said = [];
  for (let i = 0; i < 4; i++) {
    for (const tab of tabs) {
      said.push(`message ${i} of ${tab.name}`);
      await tab.say(said.at(-1));
    }
    network.cut();
    await ben.say(`cut ${i}`);
    said.push(`cut ${i}`);
    network.mend();
    await ann.isConnected();
  }
  for (const tab of tabs) {
    const all = async () => (await tab.messages()).slice(3).sort();
    await until(`${tab.name} shows every message once`, all, [...said].sort());
    assert.deepEqual(await tab.messages(), await ben.messages(), "all tabs show the same order");
  }
  await waitForMembers(tabs);
  assert.deepEqual(await ann.notices(), before, "no line says that something is missing, or that members left");
});

scenario("a tab that is loaded again", {}, async ({ open }) => {
  const tab = await open({ name: "Ann", room: "reload" });
  const other = await open({ name: "Ben", codec: "flatbuffers", room: "reload" });
  await tab.say("mine");
  await until("the other tab shows the message", () => other.messages(), ["mine"]);
  await other.say("not mine");
  await until("the tab shows the message", () => tab.messages(), ["mine", "not mine"]);
  await tab.page.reload();
  await tab.isConnected();
  await until("the history is shown", () => tab.messages(), ["mine", "not mine"]);
  assert.equal(await tab.page.locator(".mine").count(), 1, "the tab knows its own message");
  await waitForMembers([tab, other]);
});

scenario("typing and commands", {}, async ({ open }) => {
  const ann = await open({ name: "Ann", room: "commands" });
  const ben = await open({ name: "Ben", codec: "msgpack", sealed: true, room: "commands" });
  const cleo = await open({ name: "Cleo", codec: "protobuf", room: "other" });
  await waitForMembers([ann, ben]);
  await ann.page.bringToFront();
  const typing = (tab) => tab.$("typing").textContent();
  await ann.$("text").pressSequentially("hel");
  await until("the other tab shows who is typing", () => typing(ben), "Ann is typing…");
  assert.deepEqual([await typing(ann), await typing(cleo)], ["", ""]);
  await until("the notice ends", () => typing(ben), "");
  await ann.$("text").press("l");
  await until("the other tab shows it again", () => typing(ben), "Ann is typing…");
  await ann.say("hello");
  await until("the message is shown", () => ben.messages(), ["hello"]);
  assert.equal(await typing(ben), "", "the message ends the notice");

  const answer = async (text) => {
    const count = await ann.page.locator(".private").count();
    await ann.say(text);
    await ann.page.locator(".private").nth(count).waitFor();
    return ann.page.locator(".private").nth(count).textContent();
  };
  assert.match(await answer("/who"), /^\/who\nAnn, here for \d+s\nBen, here for \d+s$/);
  assert.match(await answer("/roll 2d6"), /^\/roll 2d6\n2d6: [1-6] \+ [1-6] = \d+$/);
  assert.match(await answer("/help"), /\/roll 2d6 rolls/);
  await ann.say("/dance <b>now</b>");
  await until("the problem is shown", () => ann.$("problem").textContent(), "/dance <b>now</b>: there is no command /dance, /help lists them");
  assert.equal(await ann.$("text").inputValue(), "/dance <b>now</b>", "the text may be corrected");
  await ann.say("/me");
  await until("the problem is shown", () => ann.$("problem").textContent(), "/me: try /me waves");
  await ann.say("/\u202edance");
  await until("the problem is shown", () => ann.$("problem").textContent(), "/\u202edance: there is no command /dance, /help lists them");
  assert.equal(await ann.$("problem").locator("bdi").textContent(), "/\u202edance", "it does not reverse what follows");
  await ann.say("/me waves");
  await until("the action is shown", () => ben.messages(), ["hello", "Ann waves"]);
  assert.deepEqual(await ben.notices(), [], "the others see no commands");
  assert.equal(await ann.overflow(), "");
});

scenario("several rooms in one tab", {}, async ({ open }) => {
  const ann = await open({ name: "Ann", room: "north" });
  const ben = await open({ name: "Ben", codec: "protobuf", room: "south" });
  await ann.page.bringToFront(); // clicks wait for animation frames, which background tabs rarely get
  await ann.$("room-name").fill("south");
  await ann.$("open-room").click();
  await waitForMembers([ann, ben]);
  await ben.say("hello south");
  await until("the message of the second room is shown", () => ann.messages(), ["hello south"]);

  const rooms = () =>
    ann.$("rooms").evaluate((list) =>
      [...list.querySelectorAll("button")].filter((b) => ["north", "south"].includes(b.dataset.room)).map((b) => b.textContent),
    );
  await ann.page.keyboard.press("Alt+ArrowUp");
  await until("the other room shows", () => ann.$("room-title").textContent(), "north");
  assert.deepEqual(await ann.messages(), []);
  await ben.say("are you there?");
  await until("the unread message is counted", rooms, ["north, 1 here", "south, 1 unread, 2 here"]);
  await until("the title shows the count", () => ann.page.title(), "(1) Rooms");
  await ann.page.keyboard.press("Alt+ArrowDown");
  await until("the unread message is shown", () => ann.messages(), ["hello south", "are you there?"]);
  await ann.$("leave-room").click();
  await waitForMembers([ben]);
  await until("the list offers to join the room again", rooms, ["north, 1 here", "Join south, 1 here"]);

  // The tab keeps its rooms when the codec and the sealing change.
  await ann.$("settings").click();
  await ann.$("codec-flatbuffers").check();
  await ann.$("encrypt").check();
  await ann.$("join-submit").click();
  Object.assign(ann, { codec: "flatbuffers", sealed: true });
  await ann.isConnected();
  await waitForMembers([ann]);
  assert.deepEqual(await ann.notices(), []);
  await ann.say("sealed now");
  await until("the sealed message is shown", () => ann.messages(), ["sealed now"]);
});

scenario("more rooms than allowed", {}, async ({ open }) => {
  const tab = await open({ name: "Ann", room: "room 0" });
  for (let i = 1; i < 100; i++) {
    await tab.$("room-name").fill(`room ${i}`);
    await tab.$("room-name").press("Enter");
  }
  await until("the refusal is shown", () => tab.$("problem").textContent(), "room 99: a tab can be in 8 rooms");
  assert.equal(await tab.$("room-title").textContent(), "room 7");
  await tab.say("still here");
  await until("the message is shown", () => tab.messages(), ["still here"]);
  assert.equal(await tab.overflow(), "");
});

scenario("settings that cannot be used", {}, async ({ visit }) => {
  const insecure = server.url.replace("127.0.0.1", "insecure.test");
  const tab = await visit("/?name=Ann&codec=xml#settings");
  await until("the page says so", () => tab.$("join-problem").textContent(), "There is no codec xml.");
  await tab.page.goto(`${insecure}/?name=Ann&encrypt=1#settings`);
  await until("the page says so", () => tab.$("join-problem").textContent(), "Messages were to be sealed, which is not possible on this page.");
  assert.equal(await tab.$("connection-text").textContent(), "Not connected");
  assert.equal(await tab.$("encrypt").isDisabled(), true);
  await tab.$("join-submit").click();
  await until("the tab is connected", () => tab.$("connection-text").textContent(), "Connected: JSON");
});

scenario("hostile names and texts are shown as text", {}, async ({ open }) => {
  const markup = `<img src=x onerror="window.hacked=1"><script>window.hacked=1</script><b>bold</b> &amp; \u202etxet\u202c`;
  const long = "long".repeat(500);
  const lines = Array.from({ length: 60 }, (_, i) => `line ${i}`).join("\n");
  const room = `<u onclick="alert(1)">room</u>`;
  const eve = await open({ name: `<i>Eve</i>" onx="1"`, codec: "flatbuffers", sealed: true, room });
  const ann = await open({ name: "Ann", room });
  await eve.page.bringToFront();
  for (const text of [markup, long, lines, "javascript:alert(1)", "{}", "0"]) {
    await eve.$("text").fill(text);
    await eve.$("send").click();
  }
  for (const tab of [eve, ann]) {
    await until("all messages are shown as text", () => tab.messages(), [markup, long, lines, "javascript:alert(1)", "{}", "0"]);
    assert.deepEqual(await tab.members(), [`<i>Eve</i>" onx="1": FlatBuffers, sealed`, "Ann: JSON"]);
    assert.equal(await tab.$("room-title").textContent(), room);
    assert.equal(await tab.page.evaluate(() => window.hacked), undefined);
    assert.equal(await tab.page.locator("#log img, #log script, #log b b, #log i, main u, nav u").count(), 0);
    assert.equal(await tab.overflow(), "");
  }
  for (const tooLong of ["x".repeat(2_001), `/roll ${"2".repeat(20_000)}`]) {
    await ann.say(tooLong);
    const problem = `This text has ${tooLong.length.toLocaleString("en-GB")} characters, and a message at most 2,000.`;
    await until("a text that is too long is refused", () => ann.$("problem").textContent(), problem);
    assert.equal(await ann.$("text").inputValue(), tooLong, "it may be shortened");
  }
  await ann.say(" \n ");
  assert.equal((await ann.messages()).length, 6, "an empty text is not sent");

  await ann.$("room-name").fill("\u202ebackwards");
  await ann.$("room-name").press("Enter");
  await until("an invalid room name is rejected", () => ann.$("problem").textContent(), "\u202ebackwards: a room's name has 1 to 32 printable characters");
  await ann.$("room-name").fill("x\u0080");
  await ann.$("room-name").press("Enter");
  await until("the hub's own refusal is told in plain words", () => ann.$("problem").textContent(), "x\u0080: the server does not accept that");
  assert.equal(await ann.$("room-title").textContent(), room);
});

scenario("keyboard only", {}, async ({ visit }) => {
  const tab = await visit("/#keyboard");
  Object.assign(tab, { name: "Kim", codec: "protobuf", sealed: true });
  const { keyboard } = tab.page;
  const focus = () => tab.page.evaluate(() => document.activeElement.dataset.testid ?? document.activeElement.className);
  const isAt = (testId) => until("the focus", focus, testId);
  const press = async (...keys) => {
    for (const key of keys) await keyboard.press(key);
  };
  const isMarked = async () => {
    const mark = await tab.page.evaluate(() => {
      const node = document.activeElement;
      const box = node.type === "radio" ? node.closest("label") : node;
      return getComputedStyle(box).outlineStyle;
    });
    assert.equal(mark, "solid", `the focus on ${await focus()} is visible`);
  };

  await isAt("name");
  for (let i = 0; i < 3; i++) {
    await press("Escape"); // the first dialog cannot be cancelled
    await isAt("name");
  }
  await keyboard.type("Kim");
  await press("Tab");
  await isAt("codec-json");
  await isMarked();
  await press("ArrowRight");
  await isAt("codec-protobuf");
  await press("Tab", "Space");
  await isAt("encrypt");
  await isMarked();
  await press("Tab");
  await isAt("join-submit");
  await press("Enter");
  await tab.isConnected();
  await isAt("text");
  await keyboard.type("first line");
  await press("Shift+Enter");
  await keyboard.type("second line");
  await press("Enter");
  await until("the message is shown", () => tab.messages(), ["first line\nsecond line"]);
  await isAt("text");

  // Move the focus through the whole page.
  await tab.$("settings").focus();
  const stops = [await focus()];
  for (let i = 0; i < 30 && stops.at(-1) !== "text"; i++) {
    await press("Tab");
    stops.push(await focus());
    if (stops.at(-1) !== "") await isMarked(); // empty: the focus is on the page itself, after its last element
  }
  for (const stop of ["settings", "theme", "room", "room-name", "open-room", "messages"]) {
    assert.ok(stops.includes(stop), `${stop} is among ${stops}`);
  }

  await tab.$("room-name").focus();
  await keyboard.type("second");
  await press("Enter");
  await until("the room is open", () => tab.$("room-title").textContent(), "second");
  await isAt("text");
  await press("Alt+ArrowUp");
  await until("the first room shows", () => tab.$("room-title").textContent(), "keyboard");
  await tab.$("settings").focus();
  await press("Enter");
  await isAt("name");
  await press("Escape");
  await isAt("settings");
});

scenario("on a phone", { viewport: { width: 320, height: 640 }, hasTouch: true, isMobile: true }, async ({ visit, open }) => {
  const tab = await visit("/");
  Object.assign(tab, { name: "Maximiliane von Habsburg", codec: "flatbuffers", sealed: true });
  assert.equal(await tab.overflow(), "", "the dialog fits");
  await tab.$("name").fill(tab.name);
  await tab.$("codec-flatbuffers").tap();
  await tab.$("encrypt").tap();
  await tab.$("join-submit").tap();
  await tab.isConnected();
  const other = await open({ name: "W".repeat(24), codec: "msgpack", sealed: true, room: "lobby" });
  await tab.page.bringToFront();
  await tab.say("Donaudampfschifffahrtsgesellschaft".repeat(5));
  await tab.$("send").tap({ trial: true });
  await until("the other tab shows the message", async () => (await other.messages()).at(-1)?.length, 170);
  await until("both members are listed", async () => (await tab.members()).length, 2);
  for (const view of ["chat", "rooms", "details"]) {
    await tab.$(`view-${view}`).tap();
    await tab.$(`${view}-panel`).waitFor();
    await until(`the ${view} view fits`, () => tab.overflow(), "");
  }
  await tab.$("view-rooms").tap();
  await tab.$("room-name").fill("a room with a name as long as it");
  await tab.$("open-room").tap();
  await tab.$("chat-panel").waitFor();
  assert.equal(await tab.overflow(), "");
  await other.say("are you still here?");
  await tab.$("unread-total").waitFor();
  assert.equal(await tab.overflow(), "");
});

scenario("light and dark themes", { colorScheme: "dark" }, async ({ open }) => {
  const tab = await open({ name: "Ann", room: "colours" });
  const background = () => tab.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await background();
  await tab.$("theme").click();
  const light = await background();
  assert.notEqual(light, dark);
  await tab.page.reload();
  await tab.isConnected();
  assert.equal(await background(), light, "the choice is remembered");
});

for (const [device, options] of [
  ["a desktop", {}],
  ["a dark desktop", { colorScheme: "dark" }],
  ["a phone", { viewport: { width: 320, height: 640 }, hasTouch: true, isMobile: true }],
]) {
  scenario(`accessible on ${device}`, options, async ({ visit, open }) => {
    const room = device.slice(2);
    const ann = await open({ through: network, name: "Ann", room });
    const ben = await open({ name: "Ben", codec: "msgpack", sealed: true, room });
    const finds = async (where) => {
      const { violations } = await ann.page.evaluate(`${axe.source}; axe.run({ rules: { "label-content-name-mismatch": { enabled: true } } })`);
      const found = violations.flatMap(({ id, impact, nodes }) => nodes.map(({ html, failureSummary }) => `${impact} ${id}: ${html} ${failureSummary}`));
      assert.deepEqual(found, [], where);
    };
    // Screen readers read what is inserted, unless it is inside a part that is off.
    await ann.page.evaluate(() => {
      window.read = [];
      new MutationObserver((changes) => {
        for (const { addedNodes } of changes) {
          for (const node of addedNodes) {
            if (node.closest?.("[aria-live]").ariaLive === "polite") window.read.push(node.querySelector("[data-testid=message-text]")?.textContent);
          }
        }
      }).observe(document.getElementById("log"), { childList: true });
    });
    await ann.page.bringToFront();
    for (const text of ["hello", "/me waves", "/who"]) await ann.say(text);
    await ann.page.locator(".private").waitFor();
    await ben.say("hello");
    await until("all messages are shown", async () => (await ann.messages()).length, 3);
    const read = async () => (await ann.page.evaluate(() => window.read)).filter(Boolean);
    assert.deepEqual(await read(), ["hello", "Ann waves", "hello"], "each message is read once");
    for (const tab of [ben, ann]) {
      await tab.page.evaluate((name) => (location.hash = name), `${room} 2`);
      await until("the other room is open", () => tab.$("room-title").textContent(), `${room} 2`);
      if (tab === ben) await ben.say("old");
      await until("the message is confirmed, and later in the history", () => tab.messages(), ["old"]);
    }
    await ben.say("new");
    await until("the new message is shown", () => ann.messages(), ["old", "new"]);
    assert.deepEqual(await read(), ["hello", "Ann waves", "hello", "new"], "a history is not read");
    for (const view of device === "a phone" ? ["details", "rooms", "chat"] : [""]) {
      if (view) await ann.$(`view-${view}`).tap();
      await finds(`connected ${view}`);
    }
    await ann.say("/nonsense");
    ann.serverIsAway = true;
    network.cut();
    await until("the connection is lost", () => ann.$("connection-text").textContent(), "No connection, trying again…");
    await ann.say("waiting");
    await finds("without a connection");
    network.mend();
    await until("the message is sent", async () => (await ann.messages()).at(-1), "waiting");
    await ann.$("settings").click();
    await finds("settings");
    const dialog = await visit("/");
    await dialog.$("name").waitFor();
    Object.assign(ann, { page: dialog.page });
    await finds("the first dialog");
  });
}
