// LangChain.js, with its OpenAI package.
import { KEY, MODEL, URL_, load, run } from "./stage.mjs";

const { ChatOpenAI, OpenAIEmbeddings } = await load("@langchain/openai");
const { tool } = await load("@langchain/core/tools");
const { z } = await load("zod");
const options = { model: MODEL, apiKey: KEY, maxRetries: 0, configuration: { baseURL: `${URL_}/v1` } };
const model = new ChatOpenAI(options);
const Person = z.object({ name: z.string(), age: z.number().int() });

await run({
  async chat() {
    const answer = await model.invoke("Hi");
    return { text: answer.content, total: answer.usage_metadata.total_tokens };
  },
  async stream() {
    let text = "";
    let total = 0;
    for await (const chunk of await model.stream("Hi")) {
      text += chunk.content;
      total += chunk.usage_metadata?.total_tokens ?? 0;
    }
    return { text, total };
  },
  async tools() {
    const weather = tool(async () => "sun", {
      name: "weather",
      description: "The weather",
      schema: z.object({ city: z.string(), days: z.number().int() }),
    });
    const answer = await model.bindTools([weather]).invoke("the weather, with a tool");
    return { name: answer.tool_calls[0].name, args: answer.tool_calls[0].args };
  },
  structured: () => model.withStructuredOutput(Person, { method: "jsonSchema" }).invoke("Hi"),
  embeddings: () => new OpenAIEmbeddings(options).embedDocuments(["a", "b"]),
});
