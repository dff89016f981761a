// The Anthropic SDK for Node.
import { KEY, MODEL, URL_, WEATHER, load, run } from "./stage.mjs";

const { default: Anthropic } = await load("@anthropic-ai/sdk");
const client = new Anthropic({ baseURL: URL_, apiKey: KEY, maxRetries: 0 });
const ask = (content = "Hi") => ({ model: MODEL, max_tokens: 100, messages: [{ role: "user", content }] });

await run({
  async messages() {
    const answer = await client.messages.create(ask());
    return { text: answer.content[0].text, stop: answer.stop_reason, request_id: Boolean(answer._request_id) };
  },
  async stream() {
    const final = await client.messages.stream(ask()).finalMessage();
    return { text: final.content[0].text, stop: final.stop_reason, out: final.usage.output_tokens };
  },
  async tools() {
    const tools = [{ name: "weather", input_schema: WEATHER }];
    const answer = await client.messages.stream({ ...ask("the weather, with a tool"), tools }).finalMessage();
    const use = answer.content.find((block) => block.type === "tool_use");
    return { input: use.input, stop: answer.stop_reason };
  },
  async count() {
    const { model, messages } = ask();
    return (await client.messages.countTokens({ model, messages })).input_tokens;
  },
  async errors() {
    const told = {};
    for (const status of [400, 404, 429, 500]) {
      try {
        await client.messages.create(ask(`fail with ${status}`));
      } catch (error) {
        told[status] = [error.constructor.name, error.status, error.error.type, error.error.error.type];
      }
    }
    return told;
  },
});
