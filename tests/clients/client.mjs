// The openai npm package as a client of the gateway. Takes the same steps and gives the same
// answers as client.py; see there. A step with {"op": "library"} runs one of several: libraries.mjs.

import { createInterface } from "node:readline";
import OpenAI from "openai";

// The names of a value's class and of all that it is derived from.
function basesOf(value) {
  const names = [];
  for (let at = value; at; at = Object.getPrototypeOf(at)) {
    names.push(at.constructor?.name);
  }
  return names;
}

function errorOf(error, chunks) {
  return {
    ok: false,
    chunks,
    error: {
      class: error?.constructor?.name ?? "unknown",
      status: error?.status ?? error?.statusCode ?? null,
      message: String(error?.message ?? error),
      type: error?.type ?? null,
      code: error?.code ?? error?.data?.error?.code ?? null,
      retry_after: error?.headers?.get?.("retry-after") ?? error?.responseHeaders?.["retry-after"] ?? null,
      bases: basesOf(error),
    },
  };
}

async function streamed(stream, abortAfter, chunks) {
  for await (const chunk of stream) {
    chunks.push(chunk);
    if (abortAfter !== undefined && chunks.length >= abortAfter) {
      stream.controller.abort();
      return { ok: true, chunks, aborted: true };
    }
  }
  return { ok: true, chunks };
}

async function one(client, step) {
  const chunks = [];
  const request = { ...step.request };
  if (step.op === "library") {
    try {
      // Loaded when it is first used: it takes longer than the openai package alone.
      const libraries = await import("./libraries.mjs");
      return { ok: true, answer: await libraries.call(process.argv[2], step) };
    } catch (error) {
      return errorOf(error, chunks);
    }
  }
  const options = step.timeout === undefined ? {} : { timeout: step.timeout * 1000 };
  try {
    if (step.op === "models") {
      return { ok: true, answer: (await client.models.list(options)).body };
    }
    if (step.op === "helper") {
      delete request.stream;
      const stream = client.chat.completions.stream(request, options);
      return { ok: true, answer: await stream.finalChatCompletion() };
    }
    const api = step.op === "chat" ? client.chat.completions : client.completions;
    const answer = await api.create(request, options);
    if (request.stream) {
      return await streamed(answer, step.abort_after, chunks);
    }
    return { ok: true, answer };
  } catch (error) {
    return errorOf(error, chunks);
  }
}

const client = new OpenAI({
  baseURL: process.argv[2],
  apiKey: "consumer-secret",
  maxRetries: 0,
});

for await (const line of createInterface({ input: process.stdin })) {
  const step = JSON.parse(line);
  let answer;
  if (step.times === undefined) {
    answer = await one(client, step);
  } else {
    const asked = Array.from({ length: step.times }, () => one(client, step));
    answer = { ok: true, answers: await Promise.all(asked) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
