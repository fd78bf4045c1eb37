// Writes a request as a command of curl, and as Python with the openai client. The key is named, never written out.

const OF_OPENAI = new Set([
  "model", "messages", "stream", "stream_options", "temperature", "top_p", "max_tokens", "seed", "stop", "presence_penalty",
  "frequency_penalty",
]);

/** The same request for a shell. */
export function asCurl(origin, body) {
  return [
    `curl ${origin}/v1/chat/completions \\`,
    "  -H 'content-type: application/json' \\",
    '  -H "authorization: Bearer $PUNA_API_KEY" \\',
    `  -d ${quoted(JSON.stringify(body, null, 2))}`,
  ].join("\n");
}

// In single quotes a shell changes nothing; a quote itself is written outside of them.
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The same request in Python. Fields that OpenAI does not know go by extra_body. */
export function asPython(origin, body) {
  const own = Object.entries(body).filter(([name]) => OF_OPENAI.has(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !OF_OPENAI.has(name)));
  const fields = Object.keys(extra).length ? [...own, ["extra_body", extra]] : own;
  return [
    "import os",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${origin}/v1", api_key=os.environ.get("PUNA_API_KEY", "none"))`,
    "stream = client.chat.completions.create(",
    ...fields.map(([name, value]) => `    ${name}=${literal(value, 1)},`),
    ")",
    "for event in stream:",
    "    if event.choices:",
    '        print(event.choices[0].delta.content or "", end="", flush=True)',
  ].join("\n");
}

/** A value as Python writes it. A JSON text is a Python text too. */
function literal(value, depth) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return wrapped("[", value.map((one) => literal(one, depth + 1)), "]", depth);
  if (typeof value !== "object") return JSON.stringify(value);
  return wrapped("{", Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${literal(one, depth + 1)}`), "}", depth);
}

function wrapped(open, parts, close, depth) {
  const line = `${open}${parts.join(", ")}${close}`;
  if (line.length < 80) return line;
  const indent = "    ".repeat(depth + 1);
  return `${open}\n${parts.map((part) => `${indent}${part},\n`).join("")}${"    ".repeat(depth)}${close}`;
}
