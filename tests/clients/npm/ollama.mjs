// What Ollama's client for Node.js gets of the server at argv[2], as one line of JSON.
import { Ollama } from "ollama";

const client = new Ollama({ host: process.argv[2] });
const messages = [{ role: "user", content: "hello" }];
const options = { num_predict: 9, temperature: 0.7, seed: 5 };
const look = { name: "look", parameters: { type: "object", properties: { at: { type: "string" } } } };

const whole = await client.chat({ model: "tiny", messages, options });
const pieces = [];
for await (const part of await client.chat({ model: "tiny", messages, options, stream: true })) pieces.push(part.message.content);
const called = await client.chat({ model: "caller", messages, tools: [{ type: "function", function: look }] });
const generated = await client.generate({ model: "tiny", prompt: "hello", options: { num_predict: 9 }, keep_alive: -1 });
const embedded = await client.embed({ model: "tiny", input: "a llama" });
const listed = await client.list();
const shown = await client.show({ model: "tiny" });
const running = await client.ps();
const error = await client.chat({ model: "nobody", messages }).catch((problem) => problem);

console.log(JSON.stringify({
  whole: whole.message.content,
  streamed: pieces.join(""),
  calls: called.message.tool_calls.map((call) => call.function).map(({ name, arguments: input }) => ({ name, input })),
  generated: generated.response,
  embedding: embedded.embeddings[0],
  models: listed.models.map((model) => model.name),
  capabilities: shown.capabilities,
  running: running.models.map((model) => model.name),
  error: { status: error.status_code, message: error.message },
}));
