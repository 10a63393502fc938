'use strict';
/*
Worker side of a faaskit channel for Node 18 or later; one file, no packages.

    node faaskit_runtime.js CODE HANDLER
    node faaskit_runtime.js CODE HANDLER --check

CODE is a .js, .cjs or .mjs file, or a folder; its node_modules are found as ever. Descriptor 3 is the channel
(docs/protocol.md). HANDLER is "module:function": the module's path in CODE without its extension, and what it
exports ("index:handler", "lib/api:routes.hello"). CommonJS and ES modules, top-level await included.

    export async function handler(payload, context) { return reply; }

`payload` is a Buffer. A reply is a Buffer (or Uint8Array), a string, null or undefined, an object or array (sent
as JSON), or an iterator of Buffers and strings, such as an async generator or a Readable: each item is sent as
it comes, to a caller that takes streams. Or one of these as `body`, beside one or more of the others:

    return { body: png, contentType: 'image/png', headers: { 'cache-control': 'no-store' }, status: 200 };

An object with any other key is JSON. A value in `headers` may be an array; `headers` may also be an array of
pairs. A function may throw: the caller gets the error, the sandbox serves on. An exception or rejection that
nobody catches ends the sandbox, after the answer if there is a call. `context` tells about the call; see
Context. A module may export `init()`, awaited before the first call, and `onThaw(idleForSeconds)`, awaited before
a call that follows an idle spell, so that connections which went stale can be renewed.

With --check nothing of the code is run: every source file outside node_modules is compiled, the handler's file is
looked for, and what is wrong goes to stderr ("index.js:3: Unexpected token"). Exit status 0: well, 1: at fault,
2: cannot tell.
*/
// Start-up is part of every cold start: what is not loaded by Node itself is required where it is needed.
const fs = require('fs');
const path = require('path');

const FD = 3;
const PROTOCOL = 1;
const MAGIC = 0x54494b46; // "FKIT"
const HEADER = 24;
const [HELLO, CALL, REPLY_HEAD, BODY, END, CREDIT, CANCEL, , DRAIN, PING, RESUMED] =
  Array.from({ length: 12 }, (_, i) => i + 1);
const SKIP_IF_UNKNOWN = 1;
const PONG = 2;

// What a CALL means by leaving a field out.
const DEFAULT_FRAME = 1 << 20;
const DEFAULT_WINDOW = 1 << 20;
const DEFAULT_REPLY = 6 << 20;

const UNKNOWN = 2; // canonical status code
const MAX_ENVELOPE = 64 << 10;
const MAX_MESSAGE = 8 << 10;
const MAX_CONTENT_TYPE = 1 << 10;
const MAX_PAIRS = 256;
const MAX_METADATA = 32 << 10;
// Of one reply; from then on what the function writes is joined to 512 bytes.
const MANY_FRAMES = 65000;
// Of one connection, which is not the function's.
const HOP_BY_HOP = new Set(['connection', 'content-length', 'keep-alive', 'proxy-connection', 'te', 'trailer',
  'transfer-encoding', 'upgrade']);

// The host sent what docs/protocol.md does not allow.
class ProtocolError extends Error {}

// --- Protobuf

function varint(value) {
  const out = [];
  while (value > 127) {
    out.push(value % 128 + 128);
    value = Math.floor(value / 128);
  }
  out.push(value);
  return out;
}

const EMPTY = Buffer.alloc(0);
const uintField = (number, value) => (value ? Buffer.from([number << 3, ...varint(value)]) : EMPTY);
const bytesField = (number, value) =>
  (value.length ? Buffer.concat([Buffer.from([number << 3 | 2, ...varint(value.length)]), value]) : EMPTY);
const pairFields = (number, pairs) => Buffer.concat(pairs.map(([name, value]) =>
  bytesField(number, Buffer.concat([bytesField(1, name), bytesField(2, value)]))));

// Calls field(number, value) for each: a number, a bigint of eight bytes, or a Buffer.
function eachField(data, field) {
  let i = 0;
  function read() {
    let value = 0;
    for (let scale = 1, bytes = 0; bytes < 10; scale *= 128, ++bytes) {
      if (i >= data.length) throw new ProtocolError('envelope ends inside a field');
      const byte = data[i++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
    throw new ProtocolError('varint of more than ten bytes');
  }
  while (i < data.length) {
    const key = read();
    const kind = key % 8;
    let size = 0;
    if (kind === 0) {
      field((key - kind) / 8, read());
      continue;
    }
    if (kind === 1) size = 8;
    else if (kind === 2) size = read();
    else if (kind === 5) size = 4;
    else throw new ProtocolError(`envelope has wire type ${kind}`);
    if (size > data.length - i) throw new ProtocolError('envelope ends inside a field');
    const value = data.subarray(i, i + size);
    i += size;
    field((key - kind) / 8, kind === 1 ? value.readBigUInt64LE() : value);
  }
}

function fields(data) {
  const found = [];
  eachField(data, (number, value) => { found[number] = value; });
  return found;
}

// --- The channel

class Channel {
  constructor(worker) {
    const net = require('net');
    this.worker = worker;
    this.waiting = EMPTY; // of a header or an envelope
    this.frame = null; // at hand: its header
    this.socket = new net.Socket({ fd: FD, readable: true, writable: true });
    this.socket.on('data', (data) => {
      try {
        this.take(data);
      } catch (error) {
        worker.broken(error);
      }
    });
    this.socket.on('end', () => worker.gone());
    this.socket.on('error', () => worker.gone());
  }

  take(data) {
    for (;;) {
      const frame = this.frame;
      if (frame !== null && frame.payload !== null) {
        const count = data.copy(frame.payload, frame.have);
        frame.have += count;
        data = data.subarray(count);
        if (frame.have < frame.payload.length) return;
        this.frame = null;
        this.worker.receive(frame);
        continue;
      }
      if (this.waiting.length) {
        data = Buffer.concat([this.waiting, data]);
        this.waiting = EMPTY;
      }
      const need = frame === null ? HEADER : frame.envelopeBytes;
      if (data.length < need) {
        this.waiting = Buffer.from(data);
        return;
      }
      if (frame === null) {
        this.frame = this.header(data);
      } else {
        frame.envelope = Buffer.from(data.subarray(0, need));
        this.worker.check(frame);
        frame.payload = Buffer.allocUnsafeSlow(frame.payloadBytes);
      }
      data = data.subarray(need);
    }
  }

  header(data) {
    const flags = data.readUInt16LE(6);
    const frame = {
      kind: data[5], flags, call: data.readBigUInt64LE(8), envelopeBytes: data.readUInt32LE(16),
      payloadBytes: data.readUInt32LE(20), envelope: EMPTY, payload: null, have: 0,
    };
    if (data.readUInt32LE(0) !== MAGIC || data[4] !== PROTOCOL) {
      throw new ProtocolError(`frame starts with ${data.toString('hex', 0, 5)}`);
    }
    if (flags & ~(SKIP_IF_UNKNOWN | PONG) || frame.envelopeBytes > MAX_ENVELOPE) {
      throw new ProtocolError(`frame has flags ${flags}, an envelope of ${frame.envelopeBytes} bytes`);
    }
    return frame;
  }

  // What waits to be written is bounded: of a reply's payload there is never more than the host's credit.
  send(kind, flags, call, envelope, payload = EMPTY) {
    const head = Buffer.allocUnsafe(HEADER + envelope.length);
    head.writeUInt32LE(MAGIC, 0);
    head[4] = PROTOCOL;
    head[5] = kind;
    head.writeUInt16LE(flags, 6);
    head.writeBigUInt64LE(call, 8);
    head.writeUInt32LE(envelope.length, 16);
    head.writeUInt32LE(payload.length, 20);
    envelope.copy(head, HEADER);
    if (payload.length <= 16384) {
      this.socket.write(payload.length ? Buffer.concat([head, payload]) : head);
      return;
    }
    this.socket.cork();
    this.socket.write(head);
    this.socket.write(payload);
    this.socket.uncork();
  }

  // Runs `then` when everything was written, before anything else is read.
  finish(then) {
    if (this.socket.destroyed) then();
    else this.socket.write(EMPTY, then);
  }
}

// What a handler may know about its call. requestId, trace; contentType: of the payload; deadline: on
// performance.now(); idleForSeconds: that the sandbox was idle before; cold: the first call here; maxReplyBytes.
class Context {
  #pairs;
  #metadata;
  #headers;

  constructor(call, pairs, cold) {
    this.requestId = `rq-${(call[2] || 0n).toString(16)}-${call[3] || 0}`;
    this.deadline = performance.now() + (call[5] || 0) / 1e3;
    this.idleForSeconds = (call[6] || 0) / 1e6;
    this.trace = call[7] || EMPTY;
    this.contentType = (call[8] || EMPTY).toString();
    this.maxReplyBytes = call[12] || DEFAULT_REPLY;
    this.cold = cold;
    this.#pairs = pairs;
  }

  // Milliseconds left until the host gives up on this call.
  remaining() { return Math.max(0, this.deadline - performance.now()); }

  // What came with the payload, in order: an array of [name, value].
  get metadata() {
    return this.#metadata ??= this.#pairs.map((pair) => {
      const [, name = EMPTY, value = EMPTY] = fields(pair);
      return [name.toString(), value.toString()];
    });
  }

  // The caller's headers by name in lower case; values of one name are joined by commas.
  get headers() {
    if (this.#headers === undefined) {
      this.#headers = Object.create(null);
      for (const [name, value] of this.metadata) {
        if (name.startsWith(':')) continue;
        this.#headers[name] = name in this.#headers ? `${this.#headers[name]}, ${value}` : value;
      }
    }
    return this.#headers;
  }

  #about(wanted, otherwise) {
    const found = this.metadata.find(([name]) => name === wanted);
    return found === undefined ? otherwise : found[1];
  }

  // Who was authenticated; empty if nobody was.
  get subject() { return this.#about(':subject', ''); }
  get method() { return this.#about(':method', 'POST'); }
  // With its query.
  get path() { return this.#about(':path', '/'); }
}

// --- Replies

function toBytes(value) {
  if (typeof value === 'string') return [Buffer.from(value), 'text/plain; charset=utf-8'];
  if (Buffer.isBuffer(value)) return [value, 'application/octet-stream'];
  if (value === null || value === undefined) return [EMPTY, ''];
  if (ArrayBuffer.isView(value)) {
    return [Buffer.from(value.buffer, value.byteOffset, value.byteLength), 'application/octet-stream'];
  }
  if (value instanceof ArrayBuffer) return [Buffer.from(value), 'application/octet-stream'];
  const json = typeof value === 'object' ? JSON.stringify(value) : undefined;
  if (json === undefined) {
    throw new TypeError(`handler returned a ${typeof value}; a Buffer, string, object, null or iterator is expected`);
  }
  return [Buffer.from(json), 'application/json'];
}

function hasParts(value) {
  if (value === null || typeof value !== 'object' || ArrayBuffer.isView(value)) return false;
  return typeof value[Symbol.asyncIterator] === 'function' ||
    (typeof value.next === 'function' && typeof value[Symbol.iterator] === 'function');
}

const OPTIONS = ['headers', 'status', 'contentType'];

// The form with a body: [body, options]; anything else is [value, null].
function splitReply(value) {
  if (value === null || typeof value !== 'object' || !Object.hasOwn(value, 'body')) return [value, null];
  const keys = Object.keys(value);
  if (keys.length < 2 || !keys.every((key) => key === 'body' || OPTIONS.includes(key))) return [value, null];
  return [value.body, value];
}

// What a function returned beside its body: [pairs, content type], checked.
function readOptions({ headers = {}, status, contentType = '' }) {
  const pairs = [];
  if (status !== undefined && status !== null) {
    if (!Number.isInteger(status) || status < 200 || status > 599) {
      throw new RangeError(`reply's status is ${String(status)}; 200 to 599 is expected`);
    }
    pairs.push([':status', String(status)]);
  }
  for (const [given, values] of typeof headers[Symbol.iterator] === 'function' ? headers : Object.entries(headers)) {
    const name = String(given).toLowerCase();
    if (!/^[-!#$%&'*+.^_`|~0-9a-z]+$/.test(name)) {
      throw new TypeError(`reply's header ${JSON.stringify(name)} is no name of a header`);
    }
    for (const one of Array.isArray(values) ? values : [values]) {
      const value = String(one);
      if (/[\0\r\n]/.test(value)) throw new TypeError(`reply's header ${name} has a line break, or a NUL`);
      if (name === 'content-type') contentType ||= value;
      else if (!HOP_BY_HOP.has(name)) pairs.push([name, value]);
    }
  }
  const bytes = pairs.map((pair) => pair.map((text) => Buffer.from(text)));
  const size = bytes.reduce((sum, [name, value]) => sum + name.length + value.length, 0);
  if (bytes.length > MAX_PAIRS || size > MAX_METADATA) {
    throw new RangeError(
      `reply has ${bytes.length} headers of ${size} bytes, the limits are ${MAX_PAIRS} and ${MAX_METADATA}`);
  }
  return [bytes, String(contentType)];
}

// The answer of one call, on its way out.
class Reply {
  constructor(channel, call, fields, frame) {
    this.channel = channel;
    this.call = call;
    this.limit = fields[12] || DEFAULT_REPLY;
    this.frame = frame;
    this.window = this.credit = fields[11] || DEFAULT_WINDOW;
    this.streams = fields[14] === 1;
    this.begun = false; // REPLY_HEAD went out
    this.frames = 0;
    this.wake = null; // somebody waits for credit
    this.iterator = null;
    this.forget();
  }

  forget() {
    this.contentType = this.payload = EMPTY;
    this.metadata = [];
  }

  async give(value) {
    const [body, options] = splitReply(value);
    if (hasParts(body)) {
      await this.giveParts(body, options);
      return;
    }
    const [payload, contentType] = toBytes(body);
    if (payload.length > this.limit) {
      throw new RangeError(`reply has ${payload.length} bytes, the limit is ${this.limit}`);
    }
    this.goWith(contentType, options);
    this.payload = payload;
  }

  // Settles what goes beside the payload.
  goWith(contentType, options) {
    if (options !== null) {
      const [metadata, chosen] = readOptions(options);
      this.metadata = metadata;
      contentType = chosen || contentType;
    }
    const bytes = Buffer.from(contentType);
    if (bytes.length > MAX_CONTENT_TYPE) {
      throw new RangeError(`reply's content type has ${bytes.length} bytes, the limit is ${MAX_CONTENT_TYPE}`);
    }
    this.contentType = bytes;
  }

  async giveParts(parts, options) {
    let size = 0;
    let held = []; // until the end; or, of a long stream of crumbs, until there is enough for a frame
    let heldBytes = 0;
    const enough = Math.max(1, Math.min(512, this.frame >> 1));
    const iterator = parts[Symbol.asyncIterator]?.() ?? parts[Symbol.iterator]();
    this.iterator = iterator;
    for await (let part of { [Symbol.asyncIterator]: () => iterator }) {
      if (typeof part !== 'string' && !ArrayBuffer.isView(part)) {
        throw new TypeError(`a reply's part is a ${typeof part}; a Buffer or string is expected`);
      }
      let contentType;
      [part, contentType] = toBytes(part);
      if (part.length === 0) continue;
      if (size === 0) this.goWith(contentType, options);
      size += part.length;
      if (size > this.limit) throw new RangeError(`reply has ${size} bytes or more, the limit is ${this.limit}`);
      if (this.streams && this.frames < MANY_FRAMES) {
        await this.sendPart(part, 1);
        continue;
      }
      held.push(part);
      heldBytes += part.length;
      if (this.streams && heldBytes >= enough) {
        await this.sendPart(Buffer.concat(held), Math.min(enough, this.window));
        held = [];
        heldBytes = 0;
      }
    }
    this.iterator = null;
    if (size === 0) this.goWith('', options);
    else if (!this.streams) this.payload = Buffer.concat(held);
    else if (heldBytes) await this.sendPart(Buffer.concat(held), Math.min(heldBytes, this.window));
  }

  async sendPart(part, least) {
    this.begin(uintField(4, 1));
    await this.sendBody(part, least);
  }

  begin(length) {
    if (this.begun) return;
    this.begun = true;
    this.channel.send(REPLY_HEAD, 0, this.call,
      Buffer.concat([bytesField(1, this.contentType), length, pairFields(3, this.metadata)]));
  }

  // In frames of at least `least` bytes, but for the last.
  async sendBody(rest, least) {
    while (rest.length) {
      while (this.credit < Math.min(least, rest.length)) await new Promise((resolve) => { this.wake = resolve; });
      const part = rest.subarray(0, Math.min(this.frame, this.credit));
      // A copy: the function may use its buffer again while this one waits to be written.
      this.channel.send(BODY, 0, this.call, EMPTY, part.length > 16384 ? Buffer.from(part) : part);
      ++this.frames;
      this.credit -= part.length;
      rest = rest.subarray(part.length);
    }
  }

  grant(bytes) {
    this.credit += bytes;
    const wake = this.wake;
    this.wake = null;
    if (wake !== null) wake();
  }

  async end(status, message, runTime) {
    const outcome = [uintField(1, status), bytesField(2, message)];
    const timing = uintField(4, runTime);
    if (!this.begun && this.payload.length <= this.frame) {
      this.channel.send(END, 0, this.call, Buffer.concat([...outcome, bytesField(3, this.contentType), timing,
        pairFields(5, this.metadata)]), this.payload);
      return;
    }
    if (!this.begun) {
      this.begin(uintField(2, this.payload.length));
      await this.sendBody(this.payload, 1);
    }
    this.channel.send(END, 0, this.call, Buffer.concat([...outcome, timing]));
  }
}

// Prints the error, and returns "Type: message" for the caller.
function describe(error) {
  let text = '<an error that cannot be printed>';
  try {
    const isError = error instanceof Error || Object.prototype.toString.call(error) === '[object Error]';
    text = isError ? `${error.name}: ${error.message}` : `thrown: ${String(error)}`;
    print(isError && error.stack ? String(error.stack) : text);
  } catch {
    print(text);
  }
  return Buffer.from(text).subarray(0, MAX_MESSAGE);
}

function print(text) {
  process.stderr.write(text + '\n');
}

// --- stdout and stderr are pipes. Node queues what a full pipe does not take, so END has to wait for it.

const outputs = new Map();

function watchOutputs() {
  for (const name of ['stdout', 'stderr']) {
    const property = Object.getOwnPropertyDescriptor(process, name);
    Object.defineProperty(process, name, {
      ...property,
      get() {
        const stream = property.get.call(process);
        if (!outputs.has(name)) {
          // As it is now: a function may put its own write() there.
          outputs.set(name, { stream, write: stream.write });
        }
        return stream;
      },
    });
  }
}

async function flush() {
  for (const { stream, write } of outputs.values()) {
    if (stream.writableLength > 0 && !stream.destroyed) {
      await new Promise((resolve) => {
        stream.once('close', resolve);
        write.call(stream, '', () => {
          stream.removeListener('close', resolve);
          resolve();
        });
      });
    }
  }
}

async function leave(status) {
  try {
    await flush();
  } finally {
    process.exit(status);
  }
}

// --- Calls

class Worker {
  constructor(handler, onThaw) {
    this.handler = handler;
    this.onThaw = onThaw;
    this.channel = new Channel(this);
    this.cold = true;
    this.draining = false;
    this.leaving = false;
    // Of one frame's payload: what the call at hand, or the last one, said.
    this.frameLimit = DEFAULT_FRAME;
    this.incoming = null; // a call that is not all here
    this.reply = null; // of the call that runs
    this.abort = null; // ends it with an error that came from the side
  }

  hello(runtimeMicros, initMicros) {
    this.channel.send(HELLO, 0, 0n, Buffer.concat([uintField(1, PROTOCOL), uintField(2, PROTOCOL),
      bytesField(4, Buffer.from(`node ${process.versions.node}`)), uintField(5, runtimeMicros),
      uintField(6, initMicros)]));
  }

  // Before its payload is read, or memory taken for it.
  check(frame) {
    let most = this.frameLimit;
    if (frame.kind === CALL) {
      if (this.incoming !== null || this.reply !== null) throw new ProtocolError('a call while another one runs');
      const call = [];
      const pairs = [];
      eachField(frame.envelope, (number, value) => {
        if (number === 13) pairs.push(value);
        else call[number] = value;
      });
      frame.fields = call;
      frame.pairs = pairs;
      this.frameLimit = call[10] || DEFAULT_FRAME;
      most = Math.min(this.frameLimit, call[9] || 0);
    } else if (frame.kind === BODY) {
      const incoming = this.incoming;
      if (incoming === null || frame.call !== incoming.call || frame.envelope.length) {
        throw new ProtocolError(`body for call ${frame.call}, envelope of ${frame.envelope.length} bytes`);
      }
      most = Math.min(most, incoming.left);
    }
    if (frame.payloadBytes > most) {
      throw new ProtocolError(`frame payload of ${frame.payloadBytes} bytes, the limit is ${most}`);
    }
  }

  receive(frame) {
    switch (frame.kind) {
      case CALL:
        this.incoming = frame;
        frame.left = (frame.fields[9] || 0) - frame.payloadBytes;
        frame.parts = [frame.payload];
        this.beginIfWhole();
        return;
      case BODY:
        this.incoming.left -= frame.payloadBytes;
        this.incoming.parts.push(frame.payload);
        this.beginIfWhole();
        return;
      case CREDIT: {
        const granted = fields(frame.envelope)[1] || 0;
        if (this.reply !== null && this.reply.call === frame.call) this.reply.grant(granted);
        return;
      }
      case DRAIN:
        this.draining = true;
        if (this.reply === null && this.incoming === null) this.quit(0);
        return;
      case PING:
        if (!(frame.flags & PONG)) this.channel.send(PING, PONG, frame.call, frame.envelope, frame.payload);
        return;
      case CANCEL: // a call runs to its end
      case RESUMED: // the idle time comes with the next call
        return;
      default:
        if (!(frame.flags & SKIP_IF_UNKNOWN)) throw new ProtocolError(`frame of type ${frame.kind}`);
    }
  }

  // The function starts only when the whole call is here: the host relies on it to tell whether a call whose
  // sandbox died can safely run elsewhere.
  beginIfWhole() {
    const call = this.incoming;
    if (call.left > 0) return;
    this.incoming = null;
    const payload = call.parts.length === 1 ? call.parts[0] : Buffer.concat(call.parts);
    const context = new Context(call.fields, call.pairs, this.cold);
    this.cold = false;
    this.reply = new Reply(this.channel, call.call, call.fields, this.frameLimit);
    this.serve(this.reply, payload, context).catch((error) => this.broken(error));
  }

  async serve(reply, payload, context) {
    const started = performance.now();
    let message = null;
    let fatal = false;
    let settled = false;
    const aside = new Promise((_, reject) => {
      this.abort = (error) => {
        fatal = true;
        // Once the function has returned, its answer stands.
        if (settled) describe(error);
        else reject(error);
      };
    });
    try {
      await Promise.race([this.run(reply, payload, context), aside]);
    } catch (error) {
      message = describe(error);
      reply.forget();
    }
    settled = true;
    const runTime = Math.round((performance.now() - started) * 1e3);
    await flush();
    if (this.leaving) return;
    await reply.end(message === null ? 0 : UNKNOWN, message || EMPTY, runTime);
    if (this.leaving) return;
    if (!fatal) {
      this.reply = this.abort = null;
      if (this.draining) this.quit(0);
      return;
    }
    // What else may come of it nobody knows. A next call is sent after END, and between its last byte and our
    // end nothing is read: so that call stays in the socket, and the host sees that it did not begin.
    this.leaving = true;
    this.channel.finish(() => process.exit(1));
  }

  async run(reply, payload, context) {
    if (context.idleForSeconds > 0 && this.onThaw !== null) await this.onThaw(context.idleForSeconds);
    await reply.give(await this.handler(payload, context));
  }

  // Something was thrown, or rejected, that nobody caught.
  uncaught(error) {
    if (this.leaving) return;
    if (this.abort !== null) {
      this.abort(error);
      return;
    }
    describe(error);
    this.quit(1);
  }

  quit(status) {
    if (this.leaving) return;
    this.leaving = true;
    this.channel.finish(() => leave(status));
  }

  // The host is done with this sandbox.
  async gone() {
    if (this.leaving) return;
    this.leaving = true;
    const iterator = this.reply?.iterator;
    if (iterator?.return) {
      // Its clean-up gets a second.
      setTimeout(() => leave(0), 1000);
      try {
        await iterator.return();
      } catch (error) {
        describe(error);
      }
    }
    leave(0);
  }

  broken(error) {
    if (this.leaving) return;
    this.leaving = true;
    describe(error);
    leave(1);
  }
}

// --- Loading

function splitHandler(target) {
  const [moduleName, attribute, ...more] = target.split(':');
  if (!moduleName || !attribute || more.length) {
    throw new TypeError(`handler ${JSON.stringify(target)} is not of the form module:function`);
  }
  return [moduleName, attribute];
}

const EXTENSIONS = ['.js', '.cjs', '.mjs'];

// The file that the handler is in; null: there is none.
function handlerFile(code, moduleName) {
  if (!fs.statSync(code).isDirectory()) return code;
  for (const extension of EXTENSIONS) {
    const file = path.join(code, moduleName + extension);
    if (fs.statSync(file, { throwIfNoEntry: false })?.isFile()) return file;
  }
  return null;
}

// Whether a file is an ES module by its name or its package, as Node has it.
function isModule(file, code) {
  const extension = path.extname(file);
  if (extension !== '.js') return extension === '.mjs';
  for (let folder = path.dirname(file); ; folder = path.dirname(folder)) {
    const description = path.join(folder, 'package.json');
    if (fs.existsSync(description)) return JSON.parse(fs.readFileSync(description, 'utf8')).type === 'module';
    if (folder === code || folder === path.dirname(folder)) return false;
  }
}

// Loads the function: this is its own init. Returns [handler, onThaw].
async function load(code, target) {
  const [moduleName, attribute] = splitHandler(target);
  code = path.resolve(code);
  const file = handlerFile(code, moduleName);
  if (file === null) throw new Error(`handler ${target}: there is no ${moduleName} with ${EXTENSIONS.join(', ')}`);
  process.argv = [process.argv[0], file];

  let loaded;
  const importIt = () => import(require('url').pathToFileURL(file).href);
  if (isModule(file, code)) {
    loaded = await importIt();
  } else {
    try {
      loaded = require(file);
    } catch (error) {
      // A .js of whose syntax alone Node can tell what it is.
      if (error?.code !== 'ERR_REQUIRE_ASYNC_MODULE' && error?.code !== 'ERR_REQUIRE_ESM') throw error;
      loaded = await importIt();
    }
  }
  const exported = (name) => loaded?.[name] ?? loaded?.default?.[name];

  const [first, ...rest] = attribute.split('.');
  let owner;
  let handler = exported(first);
  for (const name of rest) {
    owner = handler;
    handler = handler?.[name];
  }
  if (typeof handler !== 'function') throw new TypeError(`${target} is not a function`);
  const init = exported('init');
  if (typeof init === 'function' && init !== handler) await init();
  const onThaw = exported('onThaw');
  return [owner === undefined ? handler : handler.bind(owner), typeof onThaw === 'function' ? onThaw : null];
}

async function serve(code, target) {
  let worker = null;
  watchOutputs();
  const uncaught = (event) => process.on(event, (error) => {
    if (process.listenerCount(event) > 1) return; // the function sees to it itself
    if (worker !== null) {
      worker.uncaught(error);
      return;
    }
    describe(error);
    leave(1);
  });
  uncaught('uncaughtException');
  uncaught('unhandledRejection');
  const notReady = () => {
    fs.writeSync(2, 'the function\'s init has nothing left to wait for, but did not come to its end\n');
    process.exitCode = 1;
  };
  process.once('beforeExit', notReady);

  const started = performance.now();
  let handler;
  let onThaw;
  try {
    [handler, onThaw] = await load(code, target);
  } catch (error) {
    describe(error);
    await leave(1);
  }
  const initTime = performance.now() - started;
  process.removeListener('beforeExit', notReady);
  await flush();
  worker = new Worker(handler, onThaw);
  worker.hello(Math.round(started * 1e3), Math.round(initTime * 1e3));
}

// --- --check: what can be said of the code without running any of it.

const MAX_FILES = 2000;
const MAX_BYTES = 64 << 20;
const MAX_LOCATED = 5;

class Incomplete extends Error {}

function* sources(code, folder = code) {
  if (!fs.statSync(code).isDirectory()) {
    yield code;
    return;
  }
  const entries = fs.readdirSync(folder, { withFileTypes: true });
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const name = path.join(folder, entry.name);
    if (entry.isDirectory() && entry.name !== 'node_modules') yield* sources(code, name);
    else if (entry.isFile() && EXTENSIONS.includes(path.extname(entry.name))) yield name;
  }
}

// The line and what is wrong there, from an error of the compiler.
function complaint(name, error) {
  const line = /^[^\n]*:(\d+)\n/.exec(error.stack || '');
  return `${name}${line ? `:${line[1]}` : ''}: ${error.message}`;
}

// For ES modules the compiler is behind a flag, which a thread may have of its own.
function compileModules(modules) {
  const { Worker: Thread } = require('worker_threads');
  const body = `
    const { parentPort, workerData } = require('worker_threads');
    const vm = require('vm');
    for (const name of workerData) {
      let error = null;
      try {
        new vm.SourceTextModule(require('fs').readFileSync(name, 'utf8'), { identifier: name });
      } catch (thrown) {
        error = { message: String(thrown.message), stack: String(thrown.stack) };
      }
      parentPort.postMessage(error);
    }`;
  return new Promise((resolve, reject) => {
    const errors = [];
    const thread = new Thread(body, { eval: true, workerData: modules, stderr: true,
      execArgv: ['--experimental-vm-modules', '--no-warnings'] });
    thread.on('message', (error) => errors.push(error));
    thread.on('error', (error) => reject(new Incomplete(error.message)));
    thread.on('exit', () => (errors.length === modules.length ? resolve(errors)
      : reject(new Incomplete('the compiler of ES modules ended early'))));
  });
}

// That compiler keeps the line to itself; Node's own --check tells it. Where no process can be had, the line
// stays unknown.
function stackOf(file) {
  const { spawnSync } = require('child_process');
  return String(spawnSync(process.execPath, ['--check', file], { timeout: 5000, maxBuffer: 1 << 20 }).stderr || '');
}

async function check(code, target) {
  const vm = require('vm');
  const wrong = [];
  let incomplete = null;
  try {
    const [moduleName] = splitHandler(target);
    code = path.resolve(code);
    if (!fs.existsSync(code)) throw new Incomplete(`${code} is not there`);
    const shown = (file) => path.relative(fs.statSync(code).isDirectory() ? code : path.dirname(code), file);
    const modules = [];
    const doubtful = []; // of the same index: what CommonJS has to say, if that may be it
    let files = 0;
    let size = 0;
    for (const file of sources(code)) {
      size += fs.statSync(file).size;
      if (++files > MAX_FILES || size > MAX_BYTES) {
        throw new Incomplete(`more than ${MAX_FILES} source files, or ${MAX_BYTES >> 20} MiB of them`);
      }
      let asModule;
      try {
        asModule = isModule(file, code);
      } catch (error) {
        wrong.push(`package.json: ${error.message}`);
        continue;
      }
      if (asModule) {
        modules.push(file);
        doubtful.push(null);
        continue;
      }
      try {
        const source = fs.readFileSync(file, 'utf8').replace(/^#!.*/, '');
        vm.compileFunction(source, ['exports', 'require', 'module', '__filename', '__dirname'], { filename: file });
      } catch (error) {
        if (path.extname(file) === '.js') {
          modules.push(file);
          doubtful.push(complaint(shown(file), error));
        } else {
          wrong.push(complaint(shown(file), error));
        }
      }
    }
    if (modules.length) {
      let located = 0;
      (await compileModules(modules)).forEach((error, i) => {
        if (error === null) return;
        if (doubtful[i] === null && ++located <= MAX_LOCATED) error.stack = stackOf(modules[i]);
        wrong.push(doubtful[i] ?? complaint(shown(modules[i]), error));
      });
    }
    if (handlerFile(code, moduleName) === null) {
      wrong.push(`handler ${target}: there is no ${moduleName} with ${EXTENSIONS.join(', ')}`);
    }
  } catch (error) {
    if (error instanceof Incomplete || error.code) incomplete = error;
    else wrong.push(error.message);
  }
  for (const line of [...new Set(wrong)].sort()) fs.writeSync(2, `${line}\n`);
  if (incomplete !== null) fs.writeSync(2, `not all was looked at: ${incomplete.message}\n`);
  process.exit(wrong.length ? 1 : incomplete !== null ? 2 : 0);
}

const [code, target, mode] = process.argv.slice(2);
if (process.argv.length === 5 && mode === '--check') {
  check(code, target);
} else if (process.argv.length === 4) {
  serve(code, target);
} else {
  fs.writeSync(2, 'usage: faaskit_runtime.js CODE HANDLER, the channel on descriptor 3\n');
  process.exit(1);
}
