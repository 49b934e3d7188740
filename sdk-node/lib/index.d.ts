/// <reference lib="esnext.disposable" />
/** Client of the Thalweg streaming platform. */

/** Bytes, in any buffer or view of one, or text as UTF-8. They are taken at the call. */
export type Data = string | ArrayBufferView | ArrayBufferLike
/** A value: bytes, text, or an object or array for JSON (no Map, Set, Date, Error, Promise). `null` is a tombstone. */
export type Value = Data | object | null
export type Headers = { [name: string]: Data | null } | Map<string, Data | null> | Array<[string, Data | null]>
/** Where a partition's reading starts; a number is an offset. */
export type Start = 'earliest' | 'latest' | number | { timestamp: number }

export interface ConnectOptions {
  /** File with the CA to trust (PEM). Without it: THALWEG_CA, the context of `thalweg dev`, the platform's roots. */
  ca?: string
  /** Certificate and private key (PEM files) that prove who this client is: changing a cluster from another machine needs it. */
  cert?: string
  key?: string
  /** How long a request goes on trying to reach a broker; 10 s by default. */
  timeoutMs?: number
}

/** Connects to a cluster by the address of any broker, `thalweg://host:port`. */
export function connect(address: string, options?: ConnectOptions): Promise<Client>

export interface Topic {
  name: string
  id: string
  partitions: number
  /** "name@version", or null for the built-in one. */
  partitioner: string | null
  /** -1: for ever. */
  retentionMs: number
  /** Per partition; -1: unbounded. */
  retentionBytes: number
  /** Size at which a segment is closed. */
  segmentBytes: number
  /** How long a segment stays open. */
  segmentMs: number
  /** How far a record may be stamped ahead of the broker's clock; -1: any time. */
  timestampAheadMaxMs: number
}

export interface TopicOptions {
  partitions?: number
  /** Plugin that places its records, "name" or "name@version". */
  partitioner?: string
  partitionerConfig?: Data
  /** Records whose timestamps are older are removed; -1: never. A week by default. */
  retentionMs?: number
  /** So many bytes of each partition stay, and a segment more at most; -1, the default: all. */
  retentionBytes?: number
  /** Size at which a segment is closed, 64 KiB to 1 GiB: what is removed are whole segments. By default an eighth of retentionBytes, at least 1 MiB. */
  segmentBytes?: number
  /** How long a segment stays open, at least 1000. By default an eighth of retentionMs, from 5 s to a week. */
  segmentMs?: number
  /** A record may be stamped so far ahead of the broker's clock, or its batch is refused; -1: any time. An hour by default. */
  timestampAheadMaxMs?: number
  /** Copies of each partition, on different brokers; three, or as many as there are brokers. */
  replicationFactor?: number
}

export interface Plugin {
  name: string
  version: number
  kind: 'partitioner' | 'filter'
  /** SHA-256 of the module, in hexadecimal. */
  digest: string
  bytes: number
  createdMs: number
}

export interface ProducerOptions {
  /** How long a batch waits for more while others are in flight; 5 by default. A lone record never waits. */
  lingerMs?: number
  batchBytes?: number
  compression?: 'none' | 'gzip' | 'snappy' | 'lz4' | 'zstd'
  /** When a send is done; 'quorum' by default. Anything else switches idempotence off. */
  acks?: 'none' | 'leader' | 'quorum'
  /** From send to outcome, retries included; 120,000 by default. */
  deliveryTimeoutMs?: number
  /** Memory for records without outcome; above it, sends wait. */
  bufferBytes?: number
}

/** Partitions that a member of a group reads from now on, or does not read any more. */
export interface Rebalance {
  /** 'revoked' was given up in order; 'lost' was taken away: what was done of it since the last commit may be done again. */
  kind: 'assigned' | 'revoked' | 'lost'
  partitions: TopicPartition[]
}

export interface TopicPartition {
  topic: string
  partition: number
}

/** A partition: its number, or with its topic where several are read. */
export type Place = number | TopicPartition

export interface ConsumerOptions {
  /** All partitions without it. */
  partitions?: number[]
  /**
   * Without a group 'latest' by default. In a group it counts where the group has not come to yet, and is 'earliest' by default. A Map gives
   * single partitions starts of their own, the others begin at the end; not in a group.
   */
  start?: Start | Map<Place, Start>
  /** Ends once everything has been scanned that was there at the start; in a group, by whichever member. */
  untilEnd?: boolean
  /** Plugin that chooses the records, "name" or "name@version"; the same for all members of a group. */
  filter?: string
  filterConfig?: Data
  /** What becomes of a record on which the filter fails; 'fail' by default: the partition stops there. */
  onFilterFailure?: 'fail' | 'skip' | 'pass'
  /**
   * What becomes of a stored batch that does not decode; 'fail' by default: BadRecordError at every call until a seek past it. 'skip'
   * passes it over and counts its records as unreadable.
   */
  onBadRecord?: 'fail' | 'skip'
  /** Shares the partitions with the other consumers of this group, and goes on where the group left off. */
  group?: string
  /** A name that outlives the process, for static membership. */
  instance?: string
  /** Unheard for so long, a member counts as dead; 3,000 by default. */
  sessionTimeoutMs?: number
  /** How often what is done is committed; 1,000 by default, null: only by `commit`. */
  autoCommitMs?: number | null
  assignor?: 'uniform' | 'range'
  /** Whoever keeps a record longer leaves the group until he asks for the next one. */
  maxProcessingMs?: number
  /** A topic that does not exist yet is waited for. */
  waitForTopics?: boolean
  /** What becomes of a position that the log does not hold; 'fail' by default: OffsetOutOfRangeError until a seek. */
  outOfRange?: 'earliest' | 'latest' | 'fail'
  /** Bounds what is granted to brokers, or has come and was not taken, per topic; 32 MiB by default. */
  bufferBytes?: number
  /**
   * Called, and awaited, before the next record is handed out: for partitions that are revoked while they are still this member's, so that it may
   * commit. It may call anything but read. While a record of another partition is in hand, a revoked one waits for it for a second.
   */
  onRebalance?: (change: Rebalance) => void | Promise<void>
  /** How long `close` lets the body of a loop finish what it has in hand; 5,000 by default. */
  closeTimeoutMs?: number
  /** Ends the loop with its reason when aborted. */
  signal?: AbortSignal
}

export class Client {
  private constructor()
  createTopic(name: string, options?: TopicOptions): Promise<Topic>
  deleteTopic(name: string): Promise<void>
  topics(): Promise<Topic[]>
  /** Where each partition has a position. */
  offsets(topic: string, at: Start): Promise<Map<number, number>>
  /** Uploads a module (bytes, or a path) as the next version of `name`; the same module keeps its version. */
  uploadPlugin(name: string, module: Uint8Array | string): Promise<Plugin>
  plugins(): Promise<Plugin[]>
  /** A producer; it is opened by its first use. */
  producer(topic: string, options?: ProducerOptions): Producer
  /** A consumer; it is opened by its first use. */
  consumer(topics: string | string[], options?: ConsumerOptions): Consumer
  /** Places a topic's records in another way from now on; null: by key hash and in turn. */
  setPartitioner(topic: string, partitioner: string | null, partitionerConfig?: Data): Promise<void>
  groups(): Promise<GroupInfo[]>
  describeGroup(group: string): Promise<Group>
  /** Forgets a group without members, and how far it has come. */
  deleteGroup(group: string): Promise<void>
  /** Moves a group without members; answers with the offset of each partition. */
  resetGroup(
    group: string,
    topic: string,
    to: Start,
    options?: { partitions?: number[]; dryRun?: boolean },
  ): Promise<Map<number, number>>
  /** Closes the consumers that were made here, and lets the connection go; producers keep theirs until they are closed. */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

export interface GroupInfo {
  group: string
  state: 'empty' | 'reconciling' | 'stable'
  members: number
}

export interface Group {
  group: string
  state: 'empty' | 'reconciling' | 'stable'
  epoch: number
  coordinator: number
  assignor: 'uniform' | 'range'
  filter: string | null
  members: Array<{
    member: string
    instance: string | null
    client: string
    host: string
    partitions: TopicPartition[]
    /** What it has been told to give up, and has not yet. */
    revoked: TopicPartition[]
    isAway: boolean
  }>
  offsets: Array<{
    topic: string
    partition: number
    /** Next offset to be scanned; null: the group has not come here yet. */
    committed: number | null
    /** Records left to scan; null: the partition's only copy is damaged. */
    lag: number | null
    filtered: number
    failed: number
  }>
}

export interface Message {
  value: Value
  key?: Data | null
  headers?: Headers
  /** Milliseconds since the epoch, or a Date; the time of sending without it. */
  timestampMs?: number | Date
  /** Where it goes, whatever its key. InvalidError where the topic has a partitioner, which alone decides then. */
  partition?: number
}

export interface Delivery {
  partition: number
  /** null with acks 'none'. */
  offset: number | null
}

/**
 * Each call takes its record, and its place in line, before it returns, whether it is awaited or not: the order of calls is the order of records in
 * each partition. What is no data is refused with a TypeError that names the argument.
 */
export class Producer {
  private constructor()
  readonly topic: string
  /** Finds the topic now, so that a missing one shows before the first send. */
  open(): Promise<this>
  /** Sends a record; resolves when it is delivered. */
  send(value: Value, options?: Omit<Message, 'value'>): Promise<Delivery>
  /** Sends records; resolves with each one's outcome in order: the delivery, or the error of that record. */
  sendBatch(messages: Message[]): Promise<Array<Delivery | ThalwegError>>
  /**
   * Buffers a record; waits only while the buffer is full. `onDelivery` is called with the delivery, or with the error; without it, an error is thrown by
   * the next `flush()` or `close()`.
   */
  enqueue(value: Value, options?: Omit<Message, 'value'> & { onDelivery?: (outcome: Delivery | ThalwegError) => void }): Promise<void>
  /** Buffers records together: the fast way in. */
  enqueueBatch(messages: Message[]): Promise<void>
  /** Records that were sent, by whichever call, and have no outcome yet. */
  readonly pending: number
  /** Resolves when every record that was sent before has its outcome; TimedOutError after `timeoutMs`, and then they are still on their way. */
  flush(options?: { timeoutMs?: number }): Promise<void>
  /** Refuses further records from now on; resolves when those that were sent before have their outcomes. */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

export interface Counts {
  delivered: number
  filtered: number
  failed: number
  /** Records of batches that do not decode, passed over with onBadRecord 'skip'. */
  unreadable: number
  scanned: number
}

/**
 * Reads records. A record is done when the next one is asked for, a batch when the next batch is; in a group, what is done is committed now and then, and
 * when the consumer is closed. What is in hand then is not done.
 */
export class Consumer implements AsyncIterable<ConsumerRecord> {
  private constructor()
  readonly topics: string[]
  /** The topic, or the first of several. */
  readonly topic: string
  readonly group: string | null
  /** Opens the subscription: every partition's start has been resolved then, and what is sent from now on comes. */
  open(): Promise<this>
  /**
   * Records one by one. Whoever leaves the loop may come back: it goes on where it was. After an error of a partition: seek past it and loop again, or
   * close.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<ConsumerRecord>
  /** Batches as they come: the fast way out. A batch that was begun record by record goes on with what is left of it. */
  batches(options?: { maxRecords?: number }): AsyncIterableIterator<Batch>
  /** The next record; the one before it is done. null: nothing came within `timeoutMs`, or nothing more comes. */
  next(options?: { timeoutMs?: number }): Promise<ConsumerRecord | null>
  /** The next records that came together, at most `maxRecords`; what is left of a batch comes next. null as with `next`. */
  nextBatch(options?: { maxRecords?: number; timeoutMs?: number }): Promise<Batch | null>
  /** Moves a partition. Records that wait are dropped. */
  seek(at: Place, to: Start): Promise<void>
  /** Hands out nothing of a partition from the next record on. What waits of it comes first when it is resumed. */
  pause(at: Place): Promise<void>
  /** Hands out records of a paused partition again. */
  resume(at: Place): Promise<void>
  /** What is paused. */
  paused(): Promise<TopicPartition[]>
  /** Next offset that has not been handed out, nor passed over by the filter; null before the broker has answered. */
  position(at: Place): Promise<number | null>
  /** Records that are left to hand out or to filter. */
  lag(at: Place): Promise<number | null>
  /** How far the group has come in a partition that this member reads; null: not yet at all. */
  committed(at: Place): Promise<number | null>
  /** What is read at the moment. */
  assignment(): Promise<TopicPartition[]>
  /**
   * Commits all that was handed out so far, what is in hand included, or what is before and with one record, or next offsets by partition.
   * RebalancedError: a partition is another member's by now.
   */
  commit(offsets?: ConsumerRecord | Array<{ topic?: string; partition: number; offset: number }>): Promise<void>
  /** Records scanned so far; also once it is closed. */
  counts(): Promise<Counts>
  /**
   * Ends the subscription, and a loop that runs. What is in hand is not done, unless it is finished now: the body of a loop may end, for at most
   * `closeTimeoutMs`. Within the loop itself, use `break` before it.
   */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** A record as it was read; key, value and headers are made when they are asked for. A kept record, key or value keeps the bytes of its batch. */
export class ConsumerRecord {
  private constructor()
  /** A record as it might have been read, for tests of what handles records. */
  static of(parts: {
    value?: Value
    key?: Data | null
    headers?: Headers
    topic?: string
    partition?: number
    offset?: number
    timestampMs?: number
  }): ConsumerRecord
  readonly topic: string
  readonly partition: number
  readonly offset: number
  readonly timestampMs: number
  get key(): Buffer | null
  /** null is a tombstone. */
  get value(): Buffer | null
  get headers(): Array<[string, Buffer | null]>
  /** The value as text; null for a tombstone. */
  text(): string | null
  /** The value as JSON; null for a tombstone. */
  json(): any
  /** Bytes as text where they are text, else as `{ base64 }`. */
  toJSON(): unknown
}

/** Records of one partition that came together, sharing their bytes. */
export class Batch implements Iterable<ConsumerRecord> {
  private constructor()
  readonly topic: string
  readonly partition: number
  readonly offsets: Float64Array
  readonly timestamps: Float64Array
  get length(): number
  /** One record; negative numbers count from the end. */
  at(number: number): ConsumerRecord | undefined
  /** All values: the fastest way to read everything. */
  values(): Array<Buffer | null>
  records(): ConsumerRecord[]
  [Symbol.iterator](): Iterator<ConsumerRecord>
}

/** Base of all errors. */
export class ThalwegError extends Error {
  /** Names the kind: what can be done about it. */
  readonly code: string
  /** Whether the same call may succeed later. */
  readonly retriable: boolean
  /** Where it is about a place in a log: which, and that log's first offset and end (exclusive), as far as they are known. */
  readonly topic?: string
  readonly partition?: number | null
  readonly offset?: number | null
  readonly logStart?: number | null
  readonly logEnd?: number | null
  /** Key of the record that was not delivered; of several, of the first one. */
  readonly key?: Buffer
  /** How many records were not delivered. */
  readonly records?: number
  /** The plugin that failed: its name, version and digest. */
  readonly plugin?: string
  /** How it failed. */
  readonly reason?: string
}
export class TimedOutError extends ThalwegError {}
export class DisconnectedError extends ThalwegError {}
export class NotFoundError extends ThalwegError {}
export class DeniedError extends ThalwegError {}
export class InvalidError extends ThalwegError {}
export class RebalancedError extends ThalwegError {}
export class PluginFailedError extends ThalwegError {}
export class StorageFullError extends ThalwegError {}
export class DamagedError extends ThalwegError {}
export class InternalError extends ThalwegError {}
export class UnsupportedError extends ThalwegError {}
/** The log does not hold the position: seek to where it does. */
export class OffsetOutOfRangeError extends ThalwegError {}
/** What is stored there does not decode: seek past it, or read with onBadRecord 'skip'. */
export class BadRecordError extends ThalwegError {}
/** It is there already: use it, or take another name. */
export class AlreadyExistsError extends ThalwegError {}
/** The client, producer or consumer was closed: open another one. */
export class ClosedError extends ThalwegError {}
