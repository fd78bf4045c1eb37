// What OpenAI's client for Node.js gets of the server at argv[2], as one line of JSON.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "hello" }];
const asked = { model: "tiny", messages, max_completion_tokens: 9, temperature: 0.7, seed: 5 };
const look = { name: "look", parameters: { type: "object", properties: { at: { type: "string" } } } };

const whole = await client.chat.completions.create(asked);
const pieces = [];
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
  pieces.push(chunk.choices[0].delta.content ?? "");
}
const tools = { model: "caller", messages, tools: [{ type: "function", function: look }], max_completion_tokens: 60 };
const called = await client.chat.completions.create(tools);
const final = await client.chat.completions.stream(tools).finalChatCompletion();
const response = await client.responses.create({ model: "tiny", input: "hello", max_output_tokens: 9 });
const told = [];
for await (const event of await client.responses.create({ model: "tiny", input: "hello", max_output_tokens: 9, stream: true })) {
  if (event.type === "response.output_text.delta") told.push(event.delta);
}
const embedded = await client.embeddings.create({ model: "tiny", input: "a llama" });
const models = [];
for await (const model of client.models.list()) models.push(model.id);
const error = await client.chat.completions.create({ model: "nobody", messages }).catch((problem) => problem);

console.log(JSON.stringify({
  whole: whole.choices[0].message.content,
  streamed: pieces.join(""),
  calls: [called, final].map((one) => one.choices[0].message.tool_calls[0].function),
  response: response.output_text,
  responseStreamed: told.join(""),
  embedding: embedded.data[0].embedding,
  models,
  error: { isNotFound: error instanceof OpenAI.NotFoundError, status: error.status, code: error.code, id: error.requestID },
}));
