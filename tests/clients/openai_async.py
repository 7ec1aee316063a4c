"""The `openai` package with asyncio: many streams at once, and leaving them."""
import asyncio

import openai

from tests.clients.doors import ENDLESS, KEY, Door, check, equal, expect

THINGS = ("violin", "volcano", "glacier", "raven", "compass", "lighthouse", "telescope", "bridge")
STREAMS = 32


def client(door: Door) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=door.url + "/v1", api_key=KEY, max_retries=0, timeout=90)


async def answer(connection: openai.AsyncOpenAI, thing: str, stream: bool) -> str:
    fields = dict(model="test", messages=[{"role": "user", "content": f"What is a {thing}?"}], temperature=0, max_tokens=24)
    if not stream:
        return (await connection.chat.completions.create(**fields)).choices[0].message.content
    parts = []
    async for chunk in await connection.chat.completions.create(**fields, stream=True):
        parts += [choice.delta.content or "" for choice in chunk.choices]
    return "".join(parts)


@check
async def many_streams_at_once_each_get_their_own_answer(door: Door):
    async with client(door) as connection:
        alone = {thing: await answer(connection, thing, False) for thing in THINGS}
        asked = [THINGS[i % len(THINGS)] for i in range(STREAMS)]
        texts = await asyncio.gather(*(answer(connection, thing, True) for thing in asked))
    expect(len(set(alone.values())) > 4, "answers differ", alone)
    for thing, text in zip(asked, texts):
        equal(text, alone[thing], f"the answer about a {thing} among {STREAMS} streams")
    door.wait_all_free()


@check
async def cancelled_tasks_free_their_requests(door: Door):
    async with client(door) as connection:
        begun = [asyncio.Event() for _ in range(8)]

        async def endless(event: asyncio.Event) -> None:
            fields = dict(model="test", prompt="What", max_tokens=ENDLESS, extra_body={"ignore_eos": True})
            try:
                async for _ in await connection.completions.create(**fields, stream=True):
                    event.set()
            finally:
                event.set()  # the others wait for it, also when it failed

        tasks = [asyncio.create_task(endless(event)) for event in begun]
        await asyncio.gather(*(event.wait() for event in begun))
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    expect(all(isinstance(end, asyncio.CancelledError) for end in ended), "ends", ended)
    door.wait_all_free()


@check
async def cancelled_whole_answers_free_their_requests(door: Door):
    async with client(door) as connection:
        fields = dict(model="test", prompt="What", max_tokens=ENDLESS, extra_body={"ignore_eos": True})
        tasks = [asyncio.create_task(connection.completions.create(**fields)) for _ in range(4)]
        await asyncio.sleep(0.3)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    door.wait_all_free()
