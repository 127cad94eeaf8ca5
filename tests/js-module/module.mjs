// Every request of the RPC, as a provider module and as a consumer module. The two may be at one
// node or at two: node module.mjs <provider's RPC port> <consumer's RPC port>
import assert from "node:assert/strict";
import { Rpc, Values, framed, soon } from "./rpc.mjs";

const PROTOCOL = "js-test:1";
const [providerPort, consumerPort] = process.argv.slice(2).map(Number);

const provider = await Rpc.connect(providerPort);
const consumer = await Rpc.connect(consumerPort);
const oneNode = providerPort === consumerPort;

const steps = [];
const step = (name, run) => steps.push([name, run]);

const PEER_ID_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

function base58(bytes) {
  let number = BigInt("0x" + Buffer.from(bytes).toString("hex"));
  let text = "";
  for (; number > 0n; number /= 58n) text = PEER_ID_ALPHABET[Number(number % 58n)] + text;
  for (const byte of bytes) {
    if (byte !== 0) break;
    text = "1" + text;
  }
  return text;
}

const same = (left, right) => Buffer.compare(Buffer.from(left), Buffer.from(right)) === 0;

// What the provider knows of its jobs.
const jobs = new Map();
const nonces = new Map();
let nextNonce = 0;

function serveJobs(rpc) {
  rpc.handlers.ProviderCreateJob = ({ id, type, data }) => {
    assert.ok(data.provider_peer_id instanceof Uint8Array);
    assert.equal(data.protocol_id, PROTOCOL);
    assert.ok(Number.isInteger(data.created_at_sync));
    if (data.job_args === "silent") return;
    if (data.job_args === "busy") return rpc.respond(id, type, { tag: "Busy" });
    if (data.job_args === "bad") {
      return rpc.respond(id, type, { tag: "InvalidJobArgs", content: "Expected args" });
    }
    jobs.set(data.provider_job_id, data);
    rpc.respond(id, type, { tag: "Ok", content: undefined });
  };
  rpc.handlers.ProviderPrepareJobConnection = ({ id, type, data }) => {
    if (!jobs.has(data.provider_job_id)) return rpc.respond(id, type, { tag: "JobNotFound" });
    const nonce = `${nextNonce++}`;
    nonces.set(nonce, data);
    rpc.respond(id, type, { tag: "Ok", content: nonce });
  };
  rpc.handlers.ProviderOpenJobConnection = ({ id, data }) => {
    rpc.respond(id, "Ack", undefined);
    const job = nonces.get(data.nonce);
    assert.ok(job, "a nonce that was not given");
    nonces.delete(data.nonce);
    serve(rpc, job, rpc.claim(data.connection_id));
  };
}

// Answers {repeat, size} with that many values, and with an epilogue.
function serve(rpc, job, stream) {
  const values = new Values(async ({ repeat, size }) => {
    for (let number = 0; number < repeat; number += 1) {
      stream.write(framed({ number, text: "x".repeat(size) }));
    }
    const outcome = {
      provider_peer_id: job.provider_peer_id,
      provider_job_id: job.provider_job_id,
      balance_delta: "600",
      public_payload: '{"x":1}',
      private_payload: undefined,
    };
    const completed = await rpc.send("ProviderCompleteJob", outcome);
    assert.ok(["Ok", "AlreadyCompleted"].includes(completed.tag), completed.tag);
    const { completed_at_sync } = completed.content;
    stream.write(framed({ object: "epilogue", completed_at_sync, balance_delta: "600" }));
  });
  stream.on("data", (chunk) => values.push(chunk));
}

// Asks a job for values, checks them, and returns the epilogue.
async function talk(rpc, job, repeat, size) {
  const { connection_id } = await rpc.ok("ConsumerOpenJobConnection", job);
  const stream = rpc.claim(connection_id);
  let seen = 0;
  let values;
  const epilogue = new Promise((resolve, reject) => {
    values = new Values((value) => {
      if (value.object === "epilogue") return resolve(value);
      if (value.number !== seen || value.text.length !== size) reject(new Error("a wrong value"));
      seen += 1;
    });
    stream.on("data", (chunk) => values.push(chunk));
  });
  stream.write(framed({ repeat, size }));
  const end = await soon(epilogue, `an epilogue after ${repeat} values of ${size}`);
  assert.equal(seen, repeat);
  return { end, split: values.split };
}

async function findOffer(rpc, offerId) {
  for (;;) {
    const offers = await rpc.ok("QueryActiveOffers", { protocol_ids: [PROTOCOL] });
    const offer = offers.find((known) => known.offer_id === offerId);
    if (offer) return offer;
    await rpc.event("EventOfferUpdated", (payload) => payload.offer_id === offerId);
  }
}

let providerPeer;
let consumerPeer;
let snapshot;
const subscriptions = {};

const newJob = (job_args = "{}") =>
  consumer.ok("ConsumerCreateJob", { offer_snapshot_id: snapshot, currency: 0, job_args });

step("both nodes say who they are", async () => {
  providerPeer = (await provider.ok("QuerySystem", {})).peer_id;
  consumerPeer = (await consumer.ok("QuerySystem", undefined)).peer_id;
  assert.ok(providerPeer instanceof Uint8Array);
  assert.equal(providerPeer.length, 38);
  assert.equal(same(providerPeer, consumerPeer), oneNode);
});

step("subscriptions are counted from 0", async () => {
  subscriptions.offers = await consumer.ok("SubscribeToActiveOffers", {
    protocol_ids: [PROTOCOL],
    provider_peer_ids: undefined,
  });
  subscriptions.providers = await consumer.ok("SubscribeToActiveProviders", {});
  subscriptions.jobs = await consumer.ok("SubscribeToJobs", { consumer_peer_ids: null });
  assert.deepEqual(Object.values(subscriptions), [0, 1, 2]);
});

step("an offer appears, behind its provider", async () => {
  serveJobs(provider);
  const offer = { protocol_id: PROTOCOL, offer_id: "a", protocol_payload: '{"price":1}' };
  await provider.ok("ProviderProvide", offer);
  const duplicate = await provider.send("ProviderProvide", offer);
  assert.equal(duplicate.tag, "DuplicateOffer");
  assert.deepEqual(duplicate.content, { protocol_id: PROTOCOL, offer_id: "a" });
  const updated = await consumer.event("EventOfferUpdated", (payload) => payload.offer_id === "a");
  assert.equal(updated.subscription_id, subscriptions.offers);
  assert.ok(same(updated.payload.provider_peer_id, providerPeer));
  assert.equal(updated.payload.protocol_payload, offer.protocol_payload);
  assert.equal(updated.payload.active, true);
  snapshot = updated.payload.snapshot_id;
  // It came before the offer, so it is here already.
  const introduced = consumer.events.some(
    (event) =>
      event.type === "EventProviderUpdated" && same(event.data.payload.peer_id, providerPeer),
  );
  assert.ok(introduced, "the offer came before its provider");
});

step("peer ids are read as bytes and as text", async () => {
  for (const id of [providerPeer, base58(providerPeer)]) {
    const filter = { provider_peer_ids: [id], protocol_ids: [PROTOCOL] };
    const offers = await consumer.ok("QueryActiveOffers", filter);
    assert.deepEqual(offers.map((offer) => offer.snapshot_id), [snapshot]);
    const [record] = await consumer.ok("QueryProviders", { provider_peer_ids: [id] });
    assert.ok(same(record.peer_id, providerPeer));
  }
  const nobody = await consumer.send("QueryActiveOffers", { provider_peer_ids: ["nobody"] });
  assert.equal(nobody.tag, "InvalidPeerId");
  const none = await consumer.ok("QueryActiveOffers", { protocol_ids: ["another:1"] });
  assert.deepEqual(none, []);
});

step("queries answer and have their limits", async () => {
  const active = await consumer.ok("QueryActiveProviders", {});
  assert.ok(active.some((peer) => same(peer, providerPeer)));
  const [offer] = await consumer.ok("QueryOfferSnapshots", { snapshot_ids: [snapshot] });
  assert.equal(offer.offer_id, "a");
  const many = await consumer.send("QueryOfferSnapshots", { snapshot_ids: Array(101).fill(1) });
  assert.equal(many.tag, "Length");
  const peers = await consumer.send("QueryProviders", {
    provider_peer_ids: Array(101).fill(providerPeer),
  });
  assert.equal(peers.tag, "Length");
  for (const limit of [0, 101]) {
    const refused = await consumer.send("QueryJobs", { limit });
    assert.equal(refused.tag, "InvalidLimit");
    assert.equal(typeof refused.content, "string");
  }
  assert.deepEqual(await consumer.ok("QueryJobs", { limit: 1.0, protocol_ids: ["none"] }), []);
});

step("frames may come in pieces and together", async () => {
  await consumer.send("QuerySystem", {}, (bytes, write) => {
    for (const byte of bytes) write(Buffer.from([byte]));
  });
  let joined = Buffer.alloc(0);
  const hold = (bytes) => (joined = Buffer.concat([joined, bytes]));
  const answers = Array.from({ length: 50 }, () => consumer.send("QuerySystem", {}, hold));
  consumer.stream.write(joined);
  await Promise.all(answers);
});

step("what the node does not know gets an error", async () => {
  const unknown = await consumer.send("MakeCoffee", {});
  assert.equal(unknown.tag, "UnknownRequest");
  const bad = await consumer.send("ConsumerCreateJob", { offer_snapshot_id: "one" });
  assert.equal(bad.tag, "BadRequest");
  consumer.respond(1_000_000, "Ack", undefined);
  await consumer.ok("QuerySystem", {});
});

let completed;

step("a job is created, talked over, completed and signed", async () => {
  const job = await newJob();
  assert.ok(same(job.provider_peer_id, providerPeer));
  const before = await consumer.ok("ConsumerGetJob", job);
  assert.equal(before.completed_at_sync, undefined);
  const { end, split } = await talk(consumer, job, 20, 500);
  assert.equal(split, 0, "a value came in two chunks");
  const after = await consumer.ok("ConsumerGetJob", job);
  assert.equal(after.balance_delta, "600");
  assert.equal(after.completed_at_sync, end.completed_at_sync);
  completed = {
    ...job,
    public_payload: '{"x":1}',
    private_payload: undefined,
    balance_delta: end.balance_delta,
    completed_at_sync: end.completed_at_sync,
  };
  const wrong = await consumer.send("ConsumerCompleteJob", { ...completed, balance_delta: "-1" });
  assert.equal(wrong.tag, "InvalidBalanceDelta");
  await consumer.ok("ConsumerCompleteJob", completed);
  const again = await consumer.send("ConsumerCompleteJob", completed);
  assert.equal(again.tag, "AlreadyCompleted");
  const event = await consumer.event(
    "EventJobUpdated",
    (payload) => payload.provider_job_id === job.provider_job_id && payload.completed_at_local,
  );
  assert.equal(event.subscription_id, subscriptions.jobs);
  assert.equal(event.payload.balance_delta, "600");
});

// Page after page of two, ascending.
async function allJobs(rpc) {
  const all = [];
  for (;;) {
    const database_row_id_cursor = all.at(-1)?.job_rowid;
    const page = await rpc.ok("QueryJobs", { database_row_id_cursor, limit: 2 });
    for (const job of page) {
      assert.ok(job.job_rowid > (all.at(-1)?.job_rowid ?? 0));
      all.push(job);
    }
    if (page.length === 0) return all;
  }
}

step("the provider hears of the signature", async () => {
  for (;;) {
    const all = await allJobs(provider);
    const row = all.findLast((known) => known.provider_job_id === completed.provider_job_id);
    if (row?.signature_confirmed_at_local) {
      assert.equal(row.balance_delta, "600");
      assert.ok(same(row.consumer_peer_id, consumerPeer));
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
});

step("a completed job can be connected to again", async () => {
  const { end } = await talk(consumer, completed, 3, 100);
  assert.equal(end.completed_at_sync, completed.completed_at_sync);
});

step("jobs that do not exist are not found", async () => {
  const job = { provider_peer_id: providerPeer, provider_job_id: "nobody" };
  assert.equal((await consumer.send("ConsumerGetJob", job)).tag, "JobNotFound");
  const open = await consumer.send("ConsumerOpenJobConnection", job);
  assert.equal(open.tag, "LocalJobNotFound");
  const complete = { ...completed, ...job };
  assert.equal((await consumer.send("ConsumerCompleteJob", complete)).tag, "InvalidJobId");
  const failed = { ...job, reason: "r", reason_class: 1 };
  assert.equal((await consumer.send("FailJob", failed)).tag, "InvalidJobId");
  const outcome = { ...job, balance_delta: null, public_payload: "{}" };
  assert.equal((await provider.send("ProviderCompleteJob", outcome)).tag, "InvalidJobId");
  const offer = { offer_snapshot_id: 4_000_000_000, currency: 0 };
  assert.equal((await consumer.send("ConsumerCreateJob", offer)).tag, "LocalOfferNotFound");
});

step("refusals of a provider reach the consumer", async () => {
  const create = (job_args) =>
    consumer.send("ConsumerCreateJob", { offer_snapshot_id: snapshot, currency: 0, job_args });
  assert.equal((await create("busy")).tag, "ProviderBusy");
  assert.deepEqual(await create("bad"), { tag: "InvalidJobArgs", content: "Expected args" });
});

step("a consumer and a provider give jobs up", async () => {
  const job = await newJob();
  const failure = { reason: "no answer", reason_class: 1, private_payload: undefined };
  await consumer.ok("FailJob", { ...job, ...failure });
  const again = await consumer.send("FailJob", { ...job, ...failure });
  assert.equal(again.tag, "AlreadyFailed");
  assert.deepEqual(again.content, { reason: "no answer", reason_class: 1 });
  const late = await consumer.send("ConsumerCompleteJob", { ...completed, ...job });
  assert.equal(late.tag, "AlreadyFailed");
  const second = await newJob();
  await provider.ok("FailJob", { ...second, reason: "broken", reason_class: 0 });
  const outcome = { ...second, balance_delta: "1", public_payload: "{}" };
  assert.equal((await provider.send("ProviderCompleteJob", outcome)).tag, "AlreadyFailed");
});

step("a job that is never answered holds up no other", async () => {
  const create = (job_args) =>
    consumer.send("ConsumerCreateJob", { offer_snapshot_id: snapshot, currency: 0, job_args });
  const silent = create("silent");
  for (let number = 0; number < 5; number += 1) await talk(consumer, await newJob(), 2, 10);
  assert.equal((await silent).tag, "ProviderBusy");
});

// Larger values depend on luck, whoever sends them: yamux-js drops a frame of which a socket read
// shows it a part (session.js, _transform), and the kernel may cut writes over some 32 KiB anywhere.
step("values up to 30,000 bytes arrive whole", async () => {
  for (const size of [10, 1_000, 15_000, 20_000, 30_000]) {
    const { split } = await talk(consumer, await newJob(), 3, size);
    assert.equal(split, 0, `a value of ${size} bytes came in two chunks`);
  }
});

step("many jobs at once break no session", async () => {
  const one = async () => talk(consumer, await newJob(), 100, 300);
  const talks = await Promise.all(Array.from({ length: 50 }, one));
  assert.equal(talks.reduce((sum, { split }) => sum + split, 0), 0);
});

step("a subscription ends when it is cancelled", async () => {
  const subscription_id = subscriptions.offers;
  await consumer.ok("CancelSubscription", { subscription_id });
  const again = await consumer.send("CancelSubscription", { subscription_id });
  assert.equal(again.tag, "InvalidSubscriptionId");
  subscriptions.offers = await consumer.ok("SubscribeToActiveOffers", {});
});

step("offers leave with the connection that provided them", async () => {
  const other = await Rpc.connect(providerPort);
  await other.ok("ProviderProvide", { protocol_id: PROTOCOL, offer_id: "b", protocol_payload: "" });
  const { snapshot_id } = await findOffer(consumer, "b");
  other.close();
  const removed = await consumer.event("EventOfferRemoved", (gone) => gone.offer_id === "b");
  assert.equal(removed.payload.snapshot_id, snapshot_id);
  assert.equal(removed.payload.protocol_id, PROTOCOL);
});

for (const [name, run] of steps) {
  await soon(run(), name);
  console.log(`ok ${name}`);
}
console.log("done");
process.exit(0);
