// The OpenAI SDK for Node.
import { KEY, MODEL, URL_, WEATHER, load, run } from "./stage.mjs";

const { default: OpenAI } = await load("openai");
const { zodResponseFormat } = await load("openai/helpers/zod");
const { z } = await load("zod");
const client = new OpenAI({ baseURL: `${URL_}/v1`, apiKey: KEY, maxRetries: 0 });
const ask = (content = "Hi") => ({ model: MODEL, messages: [{ role: "user", content }] });
const Person = z.object({ name: z.string(), age: z.number().int() });

await run({
  async chat() {
    const answer = await client.chat.completions.create(ask());
    return { text: answer.choices[0].message.content, total: answer.usage.total_tokens, request_id: answer._request_id };
  },
  async stream() {
    let text = "";
    const totals = [];
    const options = { stream: true, stream_options: { include_usage: true } };
    for await (const chunk of await client.chat.completions.create({ ...ask(), ...options })) {
      text += chunk.choices[0]?.delta.content ?? "";
      if (chunk.usage) totals.push(chunk.usage.total_tokens);
    }
    return { text, totals };
  },
  async tools() {
    const runner = client.chat.completions.runTools({
      ...ask("the weather, with a tool"),
      stream: true,
      tools: [
        {
          type: "function",
          function: {
            name: "weather",
            parameters: WEATHER,
            parse: JSON.parse,
            function: ({ city, days }) => `sun in ${city} for ${days} days`,
          },
        },
      ],
    });
    return { text: await runner.finalContent() };
  },
  async structured() {
    const answer = await client.chat.completions.parse({ ...ask(), response_format: zodResponseFormat(Person, "p") });
    return answer.choices[0].message.parsed;
  },
  async embeddings() {
    const answer = await client.embeddings.create({ model: MODEL, input: ["a", "b"] });
    return answer.data.map((item) => Array.from(item.embedding));
  },
  async responses() {
    const answer = await client.responses.create({ model: MODEL, input: "Hi", store: false });
    let streamed = "";
    let last = "";
    for await (const event of await client.responses.create({ model: MODEL, input: "Hi", store: false, stream: true })) {
      last = event.type;
      if (event.type === "response.output_text.delta") streamed += event.delta;
    }
    return { text: answer.output_text, streamed, last };
  },
  async errors() {
    const told = {};
    for (const status of [400, 404, 429, 500]) {
      try {
        await client.chat.completions.create(ask(`fail with ${status}`));
      } catch (error) {
        told[status] = [error.constructor.name, error.code, Boolean(error.requestID)];
      }
    }
    return told;
  },
  async break_off() {
    let text = "";
    try {
      for await (const chunk of await client.chat.completions.create({ ...ask("break off"), stream: true })) {
        text += chunk.choices[0]?.delta.content ?? "";
      }
    } catch (error) {
      return { error: error instanceof OpenAI.APIError, text };
    }
    return { error: false, text };
  },
  async abort() {
    const stream = await client.chat.completions.create({ ...ask("hang"), stream: true });
    for await (const chunk of stream) {
      if (chunk.choices[0]?.delta.content) break;
    }
    stream.controller.abort();
    return { aborted: true };
  },
});
