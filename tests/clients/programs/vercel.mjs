// The Vercel AI SDK, with its three providers.
import { KEY, MODEL, URL_, load, run } from "./stage.mjs";

const ai = await load("ai");
const { createOpenAI } = await load("@ai-sdk/openai");
const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");
const { createAnthropic } = await load("@ai-sdk/anthropic");
const { z } = await load("zod");
const compatible = createOpenAICompatible({
  name: "router",
  baseURL: `${URL_}/v1`,
  apiKey: KEY,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const openai = createOpenAI({ baseURL: `${URL_}/v1`, apiKey: KEY });
const anthropic = createAnthropic({ baseURL: `${URL_}/v1`, apiKey: KEY });
const once = { maxRetries: 0 };
const weather = ai.tool({
  inputSchema: z.object({ city: z.string(), days: z.number().int() }),
  execute: async ({ city, days }) => `sun in ${city} for ${days} days`,
});

async function both(model) {
  const whole = await ai.generateText({ ...once, model, prompt: "Hi" });
  const streaming = ai.streamText({ ...once, model, prompt: "Hi" });
  let streamed = "";
  for await (const piece of streaming.textStream) streamed += piece;
  const usage = await streaming.usage;
  return { text: whole.text, streamed, finish: whole.finishReason, out: [whole.usage.outputTokens, usage.outputTokens] };
}

await run({
  compatible: () => both(compatible.chatModel(MODEL)),
  chat: () => both(openai.chat(MODEL)),
  responses: () => both(openai.responses(MODEL)),
  messages: () => both(anthropic(MODEL)),
  async tools() {
    const { text } = await ai.generateText({
      ...once,
      model: compatible.chatModel(MODEL),
      prompt: "the weather, with a tool",
      tools: { weather },
      stopWhen: ai.stepCountIs(3),
    });
    return { text };
  },
  async structured() {
    const { object } = await ai.generateObject({
      ...once,
      model: compatible.chatModel(MODEL),
      prompt: "Hi",
      schema: z.object({ name: z.string(), age: z.number().int() }),
    });
    return object;
  },
  async embeddings() {
    const { embeddings } = await ai.embedMany({ ...once, model: openai.embedding(MODEL), values: ["a", "b"] });
    return embeddings;
  },
  async break_off() {
    const told = [];
    const streaming = ai.streamText({ ...once, model: compatible.chatModel(MODEL), prompt: "break off", onError() {} });
    for await (const part of streaming.fullStream) told.push(part.type);
    return { error: told.includes("error") };
  },
});
