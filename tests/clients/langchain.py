"""langchain-openai, as programs use it."""
import langchain_openai

from tests.clients.doors import KEY, QUESTION, Door, check, equal, expect


def model(door: Door, **fields) -> langchain_openai.ChatOpenAI:
    return langchain_openai.ChatOpenAI(base_url=door.url + "/v1", api_key=KEY, model="test", temperature=0, max_tokens=24, max_retries=0, **fields)


@check
def invoke_stream_and_batch_agree(door: Door):
    chat = model(door)
    whole = chat.invoke(QUESTION)
    expect(whole.content and whole.usage_metadata["output_tokens"] > 0, "answer", whole)
    equal("".join(chunk.content for chunk in chat.stream(QUESTION)), whole.content, "stream")
    equal([message.content for message in chat.batch([QUESTION] * 4)], [whole.content] * 4, "batch")


@check
async def the_async_side_agrees(door: Door):
    chat = model(door)
    parts = [chunk.content async for chunk in chat.astream(QUESTION)]
    equal("".join(parts), (await chat.ainvoke(QUESTION)).content, "astream")
