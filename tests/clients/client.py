"""The openai and anthropic Python packages as clients of the gateway.

Usage: client.py BASE_URL

Reads one JSON step per line from standard input, and answers each with one JSON line:

    {"op": "models" | "chat" | "completion" | "helper"
         | "messages" | "messages_helper" | "count_tokens", "request": {...},
     "abort_after"?: chunks, "timeout"?: seconds, "times"?: how many at once}

    {"ok": true, "answer": {...}} or {"ok": true, "chunks": [...], "aborted"?: true}
    {"ok": false, "error": {"class", "status", "message", "type", "code"}, "chunks": [...]}

The last three operations are those of the anthropic package; its helper joins the stream's events
to a message.

A step with {"op": "library", ...} runs one of several libraries: see libraries.py.

With `times` the answer is {"ok": true, "answers": [...]}, one of the above for each.
"""

import asyncio
import json
import sys

import anthropic
import openai

import libraries


def error_of(error, chunks):
    body = getattr(error, "body", None)
    body = body if isinstance(body, dict) else {}
    # The openai package unwraps the error, the anthropic one does not.
    if isinstance(body.get("error"), dict):
        body = body["error"]
    return {
        "ok": False,
        "chunks": chunks,
        "error": {
            "class": type(error).__name__,
            "status": getattr(error, "status_code", None),
            "message": str(error),
            "type": body.get("type"),
            "code": body.get("code"),
            "retry_after": header_of(error, "retry-after"),
            "bases": [base.__name__ for base in type(error).__mro__],
        },
    }


def header_of(error, name):
    response = getattr(error, "response", None)
    headers = getattr(response, "headers", None) or getattr(error, "headers", None) or {}
    return headers.get(name)


def dump(value):
    return value.model_dump(mode="json", exclude_unset=True)


async def streamed(stream, abort_after, chunks):
    async for chunk in stream:
        chunks.append(dump(chunk))
        if abort_after is not None and len(chunks) >= abort_after:
            await stream.close()
            return {"ok": True, "chunks": chunks, "aborted": True}
    return {"ok": True, "chunks": chunks}


async def message(client, step, request, chunks):
    if step["op"] == "count_tokens":
        return {"ok": True, "answer": dump(await client.messages.count_tokens(**request))}
    if step["op"] == "messages_helper":
        async with client.messages.stream(**request) as stream:
            return {"ok": True, "answer": dump(await stream.get_final_message())}
    answer = await client.messages.create(**request)
    if request.get("stream"):
        return await streamed(answer, step.get("abort_after"), chunks)
    return {"ok": True, "answer": dump(answer)}


async def one(clients, step):
    client = clients["openai"]
    chunks = []
    if step["op"] == "library":
        try:
            return {"ok": True, "answer": await libraries.call(sys.argv[1], step)}
        except Exception as error:
            return error_of(error, chunks)
    request = dict(step.get("request") or {})
    if "timeout" in step:
        request["timeout"] = step["timeout"]
    # Fields that the package does not know go into the body as they are.
    known_nowhere = {key: request.pop(key) for key in list(request) if key == "derouter_test"}
    if known_nowhere:
        request["extra_body"] = known_nowhere
    try:
        if step["op"] in ("messages", "messages_helper", "count_tokens"):
            return await message(clients["anthropic"], step, request, chunks)
        if step["op"] == "models":
            return {"ok": True, "answer": dump(await client.models.list())}
        if step["op"] == "helper":
            request.pop("stream", None)
            async with client.chat.completions.stream(**request) as stream:
                return {"ok": True, "answer": dump(await stream.get_final_completion())}
        api = client.chat.completions if step["op"] == "chat" else client.completions
        answer = await api.create(**request)
        if request.get("stream"):
            return await streamed(answer, step.get("abort_after"), chunks)
        return {"ok": True, "answer": dump(answer)}
    except Exception as error:  # Whatever it is, the test wants to see it.
        return error_of(error, chunks)


async def main():
    base_url = sys.argv[1]
    options = {"api_key": "consumer-secret", "max_retries": 0}
    clients = {
        "openai": openai.AsyncOpenAI(base_url=base_url, **options),
        "anthropic": anthropic.AsyncAnthropic(base_url=base_url.removesuffix("/v1"), **options),
    }
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        step = json.loads(line)
        if "times" in step:
            answers = await asyncio.gather(*(one(clients, step) for _ in range(step["times"])))
            answer = {"ok": True, "answers": answers}
        else:
            answer = await one(clients, step)
        print(json.dumps(answer), flush=True)


asyncio.run(main())
