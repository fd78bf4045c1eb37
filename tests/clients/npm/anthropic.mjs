// What Anthropic's client for Node.js gets of the server at argv[2], as one line of JSON.
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "hello" }];
const asked = { model: "tiny", messages, system: "be brief", max_tokens: 9 };
const look = { name: "look", input_schema: { type: "object", properties: { at: { type: "string" } } } };

const text = (message) => message.content.map((block) => block.text ?? "").join("");
const whole = await client.messages.create(asked);
const streamed = await client.messages.stream(asked).finalMessage();
const tools = { model: "caller", messages, tools: [look], max_tokens: 60 };
const called = await client.messages.create(tools);
const final = await client.messages.stream(tools).finalMessage();
const counted = await client.messages.countTokens({ model: "tiny", messages });
const models = [];
for await (const model of client.models.list({ limit: 1 })) models.push(model.id);
const error = await client.messages.create({ ...asked, model: "nobody" }).catch((problem) => problem);

console.log(JSON.stringify({
  whole: text(whole),
  streamed: text(streamed),
  calls: [called, final].map((one) => one.content.find((block) => block.type === "tool_use")).map(({ name, input }) => ({ name, input })),
  counted: counted.input_tokens,
  models,
  error: { isNotFound: error instanceof Anthropic.NotFoundError, status: error.status, id: error.requestID },
}));
