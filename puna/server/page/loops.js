// Small models that take the likeliest words may say the same without end.

const [SHORTEST, LONGEST_TURN, TURNS] = [200, 600, 3]; // characters of the loop, and of one turn; how often it must have come

/** Whether a text ends in a loop. Numbers may count on. */
export function endsInLoop(text) {
  const end = text.slice(-4 * TURNS * LONGEST_TURN).replace(/\d+/g, "0");
  for (let turn = 1; turn <= LONGEST_TURN; turn += 1) {
    if (isPeriodic(end.slice(-Math.max(SHORTEST, TURNS * turn)), turn)) return true;
  }
  return false;
}

const isPeriodic = (text, turn) => text.length >= Math.max(SHORTEST, TURNS * turn) && text.slice(turn) === text.slice(0, -turn);
