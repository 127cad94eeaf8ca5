// The RPC from a module's side, as 0.1.0 modules speak it: yamux-js and cbor2, keys in the order
// type, data, kind, id, and data that is undefined where there is none.
import net from "node:net";
import { Client } from "yamux-js";
import { decode, encode } from "cbor2";

const DEADLINE_MS = 30_000;

export function soon(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not in time: ${what}`)), DEADLINE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// A frame: length and body in one buffer.
export function framed(value) {
  const body = Buffer.from(encode(value));
  const prefix = Buffer.alloc(4);
  prefix.writeUInt32BE(body.length);
  return Buffer.concat([prefix, body]);
}

// Splits chunks into length-prefixed values. 0.1.0 modules spin for ever when a chunk ends inside
// of a value, so `split` counts what must not happen to small values.
export class Values {
  constructor(onValue) {
    this.rest = Buffer.alloc(0);
    this.split = 0;
    this.onValue = onValue;
  }

  push(chunk) {
    this.rest = Buffer.concat([this.rest, chunk]);
    while (this.rest.length >= 4) {
      const length = this.rest.readUInt32BE(0);
      if (this.rest.length < 4 + length) break;
      const body = this.rest.subarray(4, 4 + length);
      this.rest = this.rest.subarray(4 + length);
      // A Buffer would be decoded to Buffers, and cbor2 writes those as their JSON.
      this.onValue(decode(new Uint8Array(body)));
    }
    if (this.rest.length > 0) this.split += 1;
  }
}

// One connection to a node.
export class Rpc {
  static async connect(port) {
    const socket = net.connect(port, "127.0.0.1");
    await soon(new Promise((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", reject);
    }), "connection");
    socket.setNoDelay(true);
    return new Rpc(socket);
  }

  constructor(socket) {
    this.socket = socket;
    this.session = new Client({ enableKeepAlive: true, logger: () => {} });
    socket.pipe(this.session).pipe(socket);
    this.closed = new Promise((resolve) => socket.once("close", resolve));
    this.stream = this.session.open();
    this.nextId = 0;
    this.waiting = new Map();
    this.events = [];
    this.wakeups = [];
    this.handlers = {};
    this.values = new Values((frame) => this.#frame(frame));
    this.stream.on("data", (chunk) => this.values.push(chunk));
  }

  #frame(frame) {
    if (frame.kind === "Response") {
      const waiting = this.waiting.get(frame.id);
      if (!waiting) throw new Error(`a response that was not asked for: ${frame.id}`);
      this.waiting.delete(frame.id);
      if (frame.type !== waiting.type) throw new Error(`${frame.type} answers ${waiting.type}`);
      waiting.resolve(frame.data);
      return;
    }
    refuseNull(frame);
    if (frame.type.startsWith("Event")) {
      this.events.push(frame);
      this.wakeups.splice(0).forEach((wake) => wake());
      this.respond(frame.id, "Ack", undefined);
      return;
    }
    const handler = this.handlers[frame.type];
    if (!handler) throw new Error(`a request that nobody handles: ${frame.type}`);
    handler(frame);
  }

  respond(id, type, data) {
    this.stream.write(framed({ type, data, kind: "Response", id }));
  }

  // Sends a request; `cut` says how its bytes are written.
  send(type, data, cut = (bytes, write) => write(bytes)) {
    const id = this.nextId++;
    const answer = new Promise((resolve) => this.waiting.set(id, { type, resolve }));
    cut(framed({ type, data, kind: "Request", id }), (bytes) => this.stream.write(bytes));
    return soon(answer, `an answer to ${type}`);
  }

  async ok(type, data) {
    const answer = await this.send(type, data);
    if (answer.tag !== "Ok") throw new Error(`${type}: ${JSON.stringify(answer)}`);
    return answer.content;
  }

  // The next event of a type that fits.
  async event(type, fits = () => true) {
    for (;;) {
      const at = this.events.findIndex((event) => event.type === type && fits(event.data.payload));
      if (at >= 0) return this.events.splice(at, 1)[0].data;
      await soon(new Promise((resolve) => this.wakeups.push(resolve)), type);
    }
  }

  // Opens a stream and claims a job connection with it.
  claim(connectionId) {
    if (connectionId > Number.MAX_SAFE_INTEGER) throw new Error("connection_id is over 2^53-1");
    const stream = this.session.open();
    const claim = Buffer.alloc(8);
    claim.writeBigUInt64BE(BigInt(connectionId));
    stream.write(claim);
    return stream;
  }

  close() {
    this.session.close();
    this.socket.destroy();
  }
}

// 0.1.0 modules reject null where a value is optional.
function refuseNull(value, path = "frame") {
  if (value === null) throw new Error(`${path} is null`);
  if (typeof value !== "object" || value instanceof Uint8Array) return;
  for (const [key, inner] of Object.entries(value)) refuseNull(inner, `${path}.${key}`);
}
