// Client libraries for JavaScript behind one interface: steps and answers are those of libraries.py.

import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, jsonSchema, streamText, tool } from "ai";

const promptOf = (request) => request.prompt ?? "Say some words";
const messagesOf = (request) => [{ role: "user", content: promptOf(request) }];

class OpenAILibrary {
  constructor(baseURL, apiKey) {
    this.client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
  }

  request(request, more) {
    const { model, tools } = request;
    return { model, messages: messagesOf(request), ...(tools && { tools }), ...more };
  }

  async chat(request) {
    const answer = await this.client.chat.completions.create(this.request(request));
    const [choice] = answer.choices;
    const { prompt_tokens, completion_tokens } = answer.usage;
    return {
      text: choice.message.content ?? "",
      calls: (choice.message.tool_calls ?? []).map((call) => ({ id: call.id, ...call.function })),
      finish: choice.finish_reason,
      usage: { input: prompt_tokens, output: completion_tokens },
    };
  }

  async stream(request, abortAfter) {
    const options = request.usage && { stream_options: { include_usage: true } };
    const asked = this.request(request, { stream: true, ...options });
    const stream = await this.client.chat.completions.create(asked);
    const joined = { text: "", calls: [], finish: null, usage: null, pieces: 0 };
    for await (const chunk of stream) {
      if (chunk.usage) {
        const { prompt_tokens, completion_tokens } = chunk.usage;
        joined.usage = { input: prompt_tokens, output: completion_tokens };
      }
      for (const choice of chunk.choices) {
        this.join(joined, choice);
      }
      if (abortAfter && joined.pieces >= abortAfter) {
        stream.controller.abort();
        break;
      }
    }
    return joined;
  }

  join(joined, choice) {
    joined.text += choice.delta.content ?? "";
    joined.pieces += choice.delta.content ? 1 : 0;
    joined.finish = choice.finish_reason ?? joined.finish;
    for (const delta of choice.delta.tool_calls ?? []) {
      const call = (joined.calls[delta.index] ??= { id: "", name: "", arguments: "" });
      call.id += delta.id ?? "";
      call.name += delta.function?.name ?? "";
      call.arguments += delta.function?.arguments ?? "";
    }
  }

  async embed(request) {
    const { model, texts } = request;
    const answer = await this.client.embeddings.create({ model, input: texts });
    return { vectors: answer.data.map((item) => item.embedding) };
  }

  async models() {
    return { ids: (await this.client.models.list()).data.map((model) => model.id) };
  }

  async model(request) {
    return { ids: [(await this.client.models.retrieve(request.model)).id] };
  }
}

// Vercel's AI SDK, with either of its providers.
class AiSdk {
  constructor(chatModel, embeddingModel) {
    Object.assign(this, { chatModel, embeddingModel });
  }

  request(request) {
    const tools = request.tools?.map(({ function: { name, parameters } }) => [
      name,
      tool({ inputSchema: jsonSchema(parameters) }),
    ]);
    return {
      model: this.chatModel(request),
      prompt: promptOf(request),
      maxRetries: 0,
      ...(tools && { tools: Object.fromEntries(tools) }),
    };
  }

  answer(text, toolCalls, finish, usage, pieces) {
    const calls = toolCalls.map((call) => ({
      id: call.toolCallId,
      name: call.toolName,
      arguments: JSON.stringify(call.input),
    }));
    const told = usage?.inputTokens === undefined ? null : usage;
    const counted = told && { input: told.inputTokens, output: told.outputTokens };
    return { text, calls, finish, usage: counted, pieces };
  }

  async chat(request) {
    const answer = await generateText(this.request(request));
    return this.answer(answer.text, answer.toolCalls, answer.finishReason, answer.usage);
  }

  async stream(request, abortAfter) {
    const leaving = new AbortController();
    const asked = { ...this.request(request), abortSignal: leaving.signal, onError: () => {} };
    const stream = streamText(asked);
    const calls = [];
    let [text, pieces, finish, usage] = ["", 0, null, null];
    for await (const part of stream.fullStream) {
      if (part.type === "error") {
        throw part.error;
      }
      if (part.type === "text-delta") {
        text += part.text;
        pieces += 1;
      }
      if (part.type === "tool-call") {
        calls.push(part);
      }
      if (part.type === "finish") {
        finish = part.finishReason;
        usage = part.totalUsage;
      }
      if (abortAfter && pieces >= abortAfter) {
        leaving.abort();
        break;
      }
    }
    return this.answer(text, calls, finish, usage, pieces);
  }

  async embed(request) {
    const model = this.embeddingModel(request);
    const answer = await embedMany({ model, values: request.texts, maxRetries: 0 });
    return { vectors: answer.embeddings };
  }
}

function aiSdkCompatible(baseURL, apiKey) {
  const provider = (request) =>
    createOpenAICompatible({ name: "derouter", baseURL, apiKey, includeUsage: request.usage });
  return new AiSdk(
    (request) => provider(request)(request.model),
    (request) => provider(request).textEmbeddingModel(request.model),
  );
}

function aiSdkOpenAI(baseURL, apiKey) {
  const provider = createOpenAI({ baseURL, apiKey });
  return new AiSdk(
    (request) => provider.chat(request.model),
    (request) => provider.textEmbeddingModel(request.model),
  );
}

class AnthropicLibrary {
  constructor(baseURL, apiKey) {
    this.client = new Anthropic({ baseURL: baseURL.replace(/\/v1$/, ""), apiKey, maxRetries: 0 });
  }

  request(request) {
    const tools = request.tools?.map(({ function: { name, parameters } }) => ({
      name,
      input_schema: parameters,
    }));
    const asked = { model: request.model, messages: messagesOf(request), max_tokens: 1000 };
    return { ...asked, ...(tools && { tools }) };
  }

  answer(message, pieces) {
    const blocks = (type) => message.content.filter((block) => block.type === type);
    return {
      text: blocks("text").map((block) => block.text).join(""),
      calls: blocks("tool_use").map((block) => ({
        id: block.id,
        name: block.name,
        arguments: JSON.stringify(block.input),
      })),
      finish: message.stop_reason,
      usage: { input: message.usage.input_tokens, output: message.usage.output_tokens },
      pieces,
    };
  }

  async chat(request) {
    return this.answer(await this.client.messages.create(this.request(request)));
  }

  async stream(request, abortAfter) {
    const stream = this.client.messages.stream(this.request(request));
    let pieces = 0;
    for await (const event of stream) {
      pieces += event.delta?.type === "text_delta" ? 1 : 0;
      if (abortAfter && pieces >= abortAfter) {
        const snapshot = stream.currentMessage;
        stream.abort();
        return this.answer(snapshot, pieces);
      }
    }
    return this.answer(await stream.finalMessage(), pieces);
  }
}

const LIBRARIES = {
  openai: (baseURL, key) => new OpenAILibrary(baseURL, key),
  "ai-sdk-compatible": aiSdkCompatible,
  "ai-sdk-openai": aiSdkOpenAI,
  anthropic: (baseURL, key) => new AnthropicLibrary(baseURL, key),
};

export async function call(baseURL, step) {
  const library = LIBRARIES[step.library](baseURL, step.key ?? "any");
  return await library[step.call](step.request ?? {}, step.abort_after);
}
