"""Client libraries for Python behind one interface: what each makes of the same answers.

A step of client.py names one:

    {"op": "library", "library": "openai" | "langchain" | "litellm" | "anthropic",
     "call": "chat" | "stream" | "embed" | "models" | "model", "key"?: "...",
     "request": {"model", "prompt"?, "tools"?: OpenAI's, "usage"?: bool, "texts"?: [...]},
     "abort_after"?: pieces}

Answers have the same form whatever the library: {"text", "calls": [{"id", "name", "arguments"}],
"finish", "usage": {"input", "output"} or null, "pieces": how many were streamed}, {"vectors"} or {"ids"}.
Libraries are imported when they are first used, since some take seconds.
"""

import json
import os

# Neither tells anybody anything, nor asks for prices of models.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["LITELLM_TELEMETRY"] = "False"
os.environ["LANGSMITH_TRACING"] = "false"


def messages_of(request):
    return [{"role": "user", "content": request.get("prompt", "Say some words")}]


def tokens(usage, names=("prompt_tokens", "completion_tokens")):
    if usage is None:
        return None
    return {"input": getattr(usage, names[0]), "output": getattr(usage, names[1])}


class Joined:
    """A streamed answer of OpenAI's form, as most programs join it."""

    def __init__(self):
        self.text, self.calls, self.finish, self.usage, self.pieces = "", {}, None, None, 0

    def take(self, chunk):
        if getattr(chunk, "usage", None):
            self.usage = tokens(chunk.usage)
        for choice in chunk.choices:
            self.text += choice.delta.content or ""
            self.pieces += bool(choice.delta.content)
            self.finish = choice.finish_reason or self.finish
            for call in choice.delta.tool_calls or []:
                self.call(call)

    def call(self, delta):
        known = self.calls.setdefault(delta.index, {"id": "", "name": "", "arguments": ""})
        known["id"] += delta.id or ""
        known["name"] += delta.function.name or ""
        known["arguments"] += delta.function.arguments or ""

    def answer(self):
        calls = [self.calls[index] for index in sorted(self.calls)]
        return {"text": self.text, "calls": calls, "finish": self.finish, "usage": self.usage, "pieces": self.pieces}


def whole(answer):
    """A plain answer of OpenAI's form."""
    choice = answer.choices[0]
    calls = [
        {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
        for call in choice.message.tool_calls or []
    ]
    return {
        "text": choice.message.content or "",
        "calls": calls,
        "finish": choice.finish_reason,
        "usage": tokens(answer.usage),
    }


class OpenAI:
    def __init__(self, base_url, key):
        import openai

        self.client = openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0)

    def request(self, request, **more):
        asked = {"model": request["model"], "messages": messages_of(request), **more}
        if "tools" in request:
            asked["tools"] = request["tools"]
        return asked

    async def chat(self, request):
        return whole(await self.client.chat.completions.create(**self.request(request)))

    async def stream(self, request, abort_after):
        more = {"stream": True}
        if request.get("usage"):
            more["stream_options"] = {"include_usage": True}
        joined = Joined()
        stream = await self.client.chat.completions.create(**self.request(request, **more))
        async for chunk in stream:
            joined.take(chunk)
            if abort_after and joined.pieces >= abort_after:
                await stream.close()
                break
        return joined.answer()

    async def embed(self, request):
        answer = await self.client.embeddings.create(model=request["model"], input=request["texts"])
        return {"vectors": [item.embedding for item in answer.data]}

    async def models(self, _):
        return {"ids": [model.id async for model in self.client.models.list()]}

    async def model(self, request):
        return {"ids": [(await self.client.models.retrieve(request["model"])).id]}


class LangChain:
    def __init__(self, base_url, key):
        self.options = {"base_url": base_url, "api_key": key, "max_retries": 0}

    def llm(self, request, **more):
        from langchain_openai import ChatOpenAI

        llm = ChatOpenAI(model=request["model"], **self.options, **more)
        return llm.bind_tools(request["tools"]) if "tools" in request else llm

    def answer(self, message, pieces=None):
        usage = message.usage_metadata
        return {
            "text": message.content,
            "calls": [
                {"id": call["id"], "name": call["name"], "arguments": json.dumps(call["args"])}
                for call in message.tool_calls
            ],
            "finish": message.response_metadata.get("finish_reason"),
            "usage": usage and {"input": usage["input_tokens"], "output": usage["output_tokens"]},
            "pieces": pieces,
        }

    async def chat(self, request):
        return self.answer(await self.llm(request).ainvoke(request.get("prompt", "Say some words")))

    async def stream(self, request, abort_after):
        llm = self.llm(request, stream_usage=bool(request.get("usage")))
        stream = llm.astream(request.get("prompt", "Say some words"))
        message, pieces = None, 0
        async for chunk in stream:
            message = chunk if message is None else message + chunk
            pieces += bool(chunk.content)
            if abort_after and pieces >= abort_after:
                await stream.aclose()
                break
        return self.answer(message, pieces)

    async def embed(self, request):
        from langchain_openai import OpenAIEmbeddings

        # Else it would count tokens with a tokenizer of OpenAI's, and send their numbers.
        embeddings = OpenAIEmbeddings(
            model=request["model"], check_embedding_ctx_length=False, **self.options
        )
        return {"vectors": await embeddings.aembed_documents(request["texts"])}


class LiteLLM:
    def __init__(self, base_url, key):
        import litellm

        litellm.suppress_debug_info = True
        self.litellm = litellm
        self.options = {"api_base": base_url, "api_key": key}

    def request(self, request, **more):
        asked = {"model": "openai/" + request["model"], "messages": messages_of(request), **more}
        if "tools" in request:
            asked["tools"] = request["tools"]
        return {**asked, **self.options, "max_retries": 0}

    async def chat(self, request):
        return whole(await self.litellm.acompletion(**self.request(request)))

    async def stream(self, request, abort_after):
        more = {"stream": True}
        if request.get("usage"):
            more["stream_options"] = {"include_usage": True}
        joined = Joined()
        stream = await self.litellm.acompletion(**self.request(request, **more))
        async for chunk in stream:
            joined.take(chunk)
            if abort_after and joined.pieces >= abort_after:
                await stream.aclose()
                break
        return joined.answer()

    async def embed(self, request):
        answer = await self.litellm.aembedding(
            model="openai/" + request["model"], input=request["texts"], max_retries=0, **self.options
        )
        return {"vectors": [item["embedding"] for item in answer.data]}

    async def models(self, _):
        names = self.litellm.get_valid_models(
            check_provider_endpoint=True, custom_llm_provider="openai", **self.options
        )
        return {"ids": [name.removeprefix("openai/") for name in names]}


class Anthropic:
    def __init__(self, base_url, key):
        import anthropic

        base_url = base_url.removesuffix("/v1")
        self.client = anthropic.AsyncAnthropic(base_url=base_url, api_key=key, max_retries=0)

    def request(self, request):
        asked = {"model": request["model"], "messages": messages_of(request), "max_tokens": 1000}
        if "tools" in request:
            asked["tools"] = [
                {"name": tool["function"]["name"], "input_schema": tool["function"]["parameters"]}
                for tool in request["tools"]
            ]
        return asked

    def answer(self, message, pieces=None):
        return {
            "text": "".join(block.text for block in message.content if block.type == "text"),
            "calls": [
                {"id": block.id, "name": block.name, "arguments": json.dumps(block.input)}
                for block in message.content
                if block.type == "tool_use"
            ],
            "finish": message.stop_reason,
            "usage": tokens(message.usage, ("input_tokens", "output_tokens")),
            "pieces": pieces,
        }

    async def chat(self, request):
        return self.answer(await self.client.messages.create(**self.request(request)))

    async def stream(self, request, abort_after):
        pieces = 0
        async with self.client.messages.stream(**self.request(request)) as stream:
            async for _ in stream.text_stream:
                pieces += 1
                if abort_after and pieces >= abort_after:
                    return self.answer(stream.current_message_snapshot, pieces)
            return self.answer(await stream.get_final_message(), pieces)


LIBRARIES = {"openai": OpenAI, "langchain": LangChain, "litellm": LiteLLM, "anthropic": Anthropic}


async def call(base_url, step):
    library = LIBRARIES[step["library"]](base_url, step.get("key", "any"))
    request = step.get("request") or {}
    if step["call"] == "stream":
        return await library.stream(request, step.get("abort_after"))
    return await getattr(library, step["call"])(request)
