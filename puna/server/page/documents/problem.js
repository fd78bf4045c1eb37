// Why a file cannot be read. The words are in languages/: `textName` names them, `values` fill their places.

export class DocumentProblem extends Error {
  constructor(textName, values = {}) {
    super(textName);
    Object.assign(this, { textName, values });
  }
}
