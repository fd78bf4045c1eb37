// The chats, kept in this browser (IndexedDB). The server keeps none.

const [NAME, STORE] = ["puna", "chats"];

/** Opens the history. In a private window that has no database, chats last as long as the page. */
export async function openHistory() {
  try {
    return new StoredHistory(await opened());
  } catch {
    return new FleetingHistory();
  }
}

function opened() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
  return result(request);
}

const result = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

const newestFirst = (chats) => chats.sort((one, other) => other.updatedAt - one.updatedAt);

class StoredHistory {
  constructor(database) {
    this.database = database;
    this.isLasting = true;
  }

  #store(mode) {
    return this.database.transaction(STORE, mode).objectStore(STORE);
  }

  all = async () => newestFirst(await result(this.#store("readonly").getAll()));
  read = (id) => result(this.#store("readonly").get(id));
  save = (chat) => result(this.#store("readwrite").put(chat));
  remove = (id) => result(this.#store("readwrite").delete(id));
}

class FleetingHistory {
  chats = new Map();
  isLasting = false;

  all = async () => newestFirst([...this.chats.values()]);
  read = async (id) => this.chats.get(id);
  save = async (chat) => void this.chats.set(chat.id, chat);
  remove = async (id) => void this.chats.delete(id);
}
