// Makes of the page's small JSON (data.py) a trace as docs/trace.schema.json describes it.

const WEIGHT_SCALE = 65535;

export function unpacked({ trace, texts, spelled }) {
  const table = new Table(texts, spelled);
  return {
    ...trace,
    prompt: { ...trace.prompt, tokens: trace.prompt.tokens.map((id) => table.token(id)) },
    steps: trace.steps.map((row, index) => stepOf(row, index, table)),
    layers: trace.layers && layersOf(trace.layers, table),
  };
}

class Table {
  constructor(texts, spelled) {
    this.texts = texts;
    this.spelled = spelled;
  }

  token(id) {
    const [piece, bytes, control] = this.spelled[id];
    return { id, piece, text: this.texts[id], bytes, is_control: control === 1 };
  }

  candidate(id, logprob, total) {
    return { id, text: this.texts[id], logit: logprob + total, probability: Math.exp(logprob), logprob };
  }

  candidates(ids, logprobs, total) {
    return ids.map((id, place) => this.candidate(id, logprobs[place], total));
  }
}

function stepOf([id, logprob, rank, given, stages, draw, computed, kv_bytes, model_s, sampling_s], index, table) {
  return {
    index,
    token: table.token(id),
    logprob,
    rank,
    is_given: given === 1,
    stages: stages.map((row, place) => stageOf(row, stages[place - 1], table)),
    draw: draw && { uniform: draw[0], low: draw[1], high: draw[2], starts: draw[3] },
    computed: computed.map(([first, last, num_drafts]) => ({ first, last, num_drafts })),
    kv_bytes,
    model_s,
    sampling_s,
  };
}

function stageOf([name, num_candidates, entropy_bits, total, ids, logprobs, chosen, cut, uniform = null], before, table) {
  return {
    name,
    num_candidates,
    entropy_bits,
    top: table.candidates(ids, logprobs, total),
    chosen: chosen && table.candidate(...chosen, total),
    cut: cut && cutOf(cut, before[3], table),
    uniform,
  };
}

function cutOf([num_removed, probability, last, first], total, table) {
  return { num_removed, probability, last_kept: table.candidate(...last, total), first_removed: table.candidate(...first, total) };
}

// ---- layers

function layersOf(layers, table) {
  return { ...layers, positions: layers.positions.map((row) => positionOf(row, table)) };
}

function positionOf([position, step, token, taken, distance, layers], table) {
  return {
    position,
    step,
    token: table.token(token),
    taken: table.token(taken),
    layers: layers.map((row, layer) => layerOf(row, layer, taken, table)),
    distance,
  };
}

function layerOf([entropy_bits, total, ids, logprobs, logprob, rank, first, numHeads, attention], layer, taken, table) {
  return {
    layer,
    entropy_bits,
    top: table.candidates(ids, logprobs, total),
    taken: table.candidate(taken, logprob, total),
    rank,
    first,
    attention: attention === null ? null : headsOf(attention, numHeads),
  };
}

/** (heads, positions) of shares, from 16 bits each in base64. */
function headsOf(text, numHeads) {
  const data = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const weights = Array.from({ length: data.length / 2 }, (_, place) => (data[2 * place] + 256 * data[2 * place + 1]) / WEIGHT_SCALE);
  const width = weights.length / numHeads;
  return Array.from({ length: numHeads }, (_, head) => weights.slice(head * width, (head + 1) * width));
}
