// Records read from their batch when they are asked.

const NONE = 0xffffffff

export class Record {
  #batch
  #at

  constructor(batch, at) {
    this.#batch = batch
    this.#at = at
  }

  get topic() {
    return this.#batch.topic
  }

  get partition() {
    return this.#batch.partition
  }

  get offset() {
    return this.#batch.offsets[this.#at]
  }

  get timestampMs() {
    return this.#batch.timestamps[this.#at]
  }

  get key() {
    return this.#batch.field(this.#at * 4)
  }

  get value() {
    return this.#batch.field(this.#at * 4 + 2)
  }

  get headers() {
    return this.#batch.headersOf(this.#at)
  }

  text() {
    return this.value?.toString('utf8') ?? null
  }

  json() {
    const text = this.text()
    return text === null ? null : JSON.parse(text)
  }
}

export class Batch {
  #native
  #headers

  constructor(native) {
    this.#native = native
    this.topic = native.topic
    this.partition = native.partition
    this.offsets = native.offsets
    this.timestamps = native.timestamps
    this.#headers = new Map(native.headers.map((h) => [h.record, h]))
  }

  get length() {
    return this.offsets.length
  }

  field(at) {
    const { index, data } = this.#native
    const length = index[at + 1]
    return length === NONE ? null : data.subarray(index[at], index[at] + length)
  }

  headersOf(record) {
    const found = this.#headers.get(record)
    return found ? found.names.map((name, i) => [name, found.values[i] ?? null]) : []
  }

  values() {
    return Array.from({ length: this.length }, (_, i) => this.field(i * 4 + 2))
  }

  records() {
    return Array.from({ length: this.length }, (_, i) => new Record(this, i))
  }

  [Symbol.iterator]() {
    return this.records()[Symbol.iterator]()
  }
}
