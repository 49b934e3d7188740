/// <reference lib="esnext.disposable" />
/** Client of the Thalweg streaming platform. */

/** Bytes, in any buffer or view of one, or text as UTF-8. They are taken at the call. InvalidError: the text holds half of a surrogate pair, which has no bytes. TypeError: the buffer is detached. */
export type Data = string | ArrayBufferView | ArrayBufferLike
/** An object or array for JSON. What has one of these symbols is something else: a Map, a Set, a Promise, a Date, a RegExp, a function. An Error or a URL compiles, and is a TypeError when it is sent. */
export type Json = { [name: string]: unknown } | (object & { [Symbol.toStringTag]?: never; [Symbol.toPrimitive]?: never; [Symbol.hasInstance]?: never; [Symbol.match]?: never })
/** A value: bytes, text, or an object or array for JSON (no Map, Set, Date, Error, Promise). `null` is a tombstone. */
export type Value = Data | Json | null
/** Headers: an object, a Map, or pairs of name and value; in pairs a name may occur several times. */
export type Headers = { readonly [name: string]: Data | null } | ReadonlyMap<string, Data | null> | ReadonlyArray<readonly [string, Data | null]>
/** Where a partition's reading starts; a number is an offset. */
export type Start = 'earliest' | 'latest' | number | { timestamp: number | Date }

/** PEM, as text or bytes, or the path of a file with it. */
export type Pem = string | Uint8Array

/** Options of `connect`. */
export interface ConnectOptions {
  /** What operators see of this client, in the broker's log and in `thalweg group describe`; "thalweg-node" by default. */
  clientId?: string | undefined
  /** The CA to trust. Without it: THALWEG_CA, the context of `thalweg dev`, the platform's roots. */
  ca?: Pem | undefined
  /** The certificate that, with `key`, proves who this client is: changing a cluster from another machine needs it. */
  cert?: Pem | undefined
  /** The private key that goes with `cert`. */
  key?: Pem | undefined
  /** How long a request goes on trying to reach a broker; 10 s by default. */
  timeoutMs?: number | undefined
}

/**
 * Connects to a cluster by the address of any broker, `thalweg://host:port`, or of several, `thalweg://a:9460,b:9460`. DisconnectedError: none answers within `timeoutMs`;
 * DeniedError: its certificate is not trusted.
 */
export function connect(address: string, options?: ConnectOptions): Promise<Client>

// types of lib/client.js, by declare.mjs:
/** A topic as the cluster knows it. */
export interface Topic {
  /** Its name. */
  name: string
  /** Its identity, a UUID that is never given again. */
  id: string
  /** How many partitions it has. */
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

/** A plugin as the cluster knows it. */
export interface Plugin {
  /** Its name. */
  name: string
  /** Number of this upload under that name, from 1 on. */
  version: number
  /** What it is for. */
  kind: 'partitioner' | 'filter'
  /** SHA-256 of the module, in hexadecimal. */
  digest: string
  /** Size of the module. */
  bytes: number
  /** When it was uploaded, in milliseconds since 1970. */
  createdMs: number
}

/** A consumer group in a list. */
export interface GroupInfo {
  /** The group id. */
  group: string
  /** 'empty' has no members; 'reconciling' is moving partitions. */
  state: 'empty' | 'reconciling' | 'stable'
  /** How many members it has. */
  members: number
}
// By hand again.

/** How a topic is to be made. */
export interface TopicOptions {
  /** How many partitions it gets; 1 by default. */
  partitions?: number | undefined
  /** Plugin that places its records, "name" or "name@version". */
  partitioner?: string | undefined
  /** The partitioner's parameters. */
  partitionerConfig?: Data | undefined
  /** Records whose timestamps are older are removed; -1: never. A week by default. */
  retentionMs?: number | undefined
  /** So many bytes of each partition stay, and a segment more at most; -1, the default: all. */
  retentionBytes?: number | undefined
  /** Size at which a segment is closed, 64 KiB to 1 GiB: what is removed are whole segments. By default an eighth of retentionBytes, at least 1 MiB. */
  segmentBytes?: number | undefined
  /** How long a segment stays open, at least 1000. By default an eighth of retentionMs, from 5 s to a week. */
  segmentMs?: number | undefined
  /** A record may be stamped so far ahead of the broker's clock, or it is refused; -1: any time. An hour by default. */
  timestampAheadMaxMs?: number | undefined
  /** Copies of each partition, on different brokers; three, or as many as there are brokers. */
  replicationFactor?: number | undefined
}

/** Options of a producer. */
export interface ProducerOptions {
  /** How long a batch waits for more while others are in flight; 5 by default. A lone record never waits. */
  lingerMs?: number | undefined
  /** Size at which a batch is sent; 128 KiB by default. */
  batchBytes?: number | undefined
  /** How batches are compressed; 'none' by default. */
  compression?: 'none' | 'gzip' | 'snappy' | 'lz4' | 'zstd' | undefined
  /** When a send is done; 'quorum' by default. Anything else switches idempotence off. */
  acks?: 'none' | 'leader' | 'quorum' | undefined
  /** From send to outcome, retries included; 120,000 by default. */
  deliveryTimeoutMs?: number | undefined
  /** Memory for records without outcome; above it, sends wait. */
  bufferBytes?: number | undefined
}

/** Partitions that a member of a group reads from now on, or does not read any more. */
export interface Rebalance {
  /** 'revoked' was given up in order; 'lost' was taken away: what was done of it since the last commit may be done again. */
  kind: 'assigned' | 'revoked' | 'lost'
  /** The partitions that it is about. */
  partitions: TopicPartition[]
}

/** One partition of a topic. */
export interface TopicPartition {
  /** The topic. */
  topic: string
  /** The partition's number. */
  partition: number
}

/** A partition: its number, or with its topic where several are read. */
export type Place = number | TopicPartition

/** Options of a consumer. */
export interface ConsumerOptions {
  /** All partitions without it. */
  partitions?: readonly number[] | undefined
  /**
   * Without a group 'latest' by default. In a group it counts where the group has not come to yet, and is 'earliest' by default. A Map gives
   * single partitions starts of their own, the others begin at the end; not in a group: `new Map<Place, Start>([[0, 5], [1, 'earliest']])`.
   */
  start?: Start | ReadonlyMap<Place, Start> | undefined
  /** Ends once everything has been scanned that was there at the start; in a group, by whichever member. */
  untilEnd?: boolean | undefined
  /** Plugin that chooses the records, "name" or "name@version"; the same for all members of a group. */
  filter?: string | undefined
  /** The filter's parameters. */
  filterConfig?: Data | undefined
  /** What becomes of a record on which the filter fails; 'fail' by default: the partition stops there. */
  onFilterFailure?: 'fail' | 'skip' | 'pass' | undefined
  /**
   * What becomes of a stored batch that does not decode; 'fail' by default: BadRecordError at every call until a seek past it. 'skip'
   * passes it over and counts its records as unreadable.
   */
  onBadRecord?: 'fail' | 'skip' | undefined
  /** Shares the partitions with the other consumers of this group, and goes on where the group left off. */
  group?: string | undefined
  /** A name that outlives the process, for static membership. */
  instance?: string | undefined
  /** Unheard for so long, a member counts as dead; 3,000 by default. */
  sessionTimeoutMs?: number | undefined
  /** How often what is done is committed; 1,000 by default, null: only by `commit`. */
  autoCommitMs?: number | null | undefined
  /** How the group's partitions are shared out; 'uniform' by default, the same for all members. */
  assignor?: 'uniform' | 'range' | undefined
  /** Whoever keeps a record longer leaves the group until they ask for the next one. */
  maxProcessingMs?: number | undefined
  /** A topic that does not exist yet is waited for. */
  waitForTopics?: boolean | undefined
  /** What becomes of a position that the log does not hold; 'fail' by default: OffsetOutOfRangeError until a seek. */
  outOfRange?: 'earliest' | 'latest' | 'fail' | undefined
  /** Bounds what is granted to brokers, or has come and was not taken, per topic; 32 MiB by default. */
  bufferBytes?: number | undefined
  /**
   * Called, and awaited, before the next record is handed out: for partitions that are revoked while they are still this member's, so that it may
   * commit. It may call anything but read, which is an InvalidError there. While a record of another partition is in hand, a revoked one waits for it for a second.
   *
   * It is called for the last time when the consumer is closed, by whichever way: 'revoked' with all partitions that it was told of and has still, before the
   * member leaves, so that state can be written and committed. `commit()` leaves out what is in hand. An abort ends reading at once: it tells 'lost'.
   */
  onRebalance?: ((change: Rebalance) => void | Promise<void>) | undefined
  /** How long `close` lets the body of a loop finish what it has in hand, and then `onRebalance` what it does; 5,000 each by default. */
  closeTimeoutMs?: number | undefined
  /**
   * Ends the consumer when aborted: its loops, and every call that waits, reject with the reason at once, also while no broker can be reached. What is in hand is not done. A `close()` after
   * that lets `onRebalance` end, and waits half a second for the group's coordinator to hear of it.
   */
  signal?: AbortSignal | undefined
}

/**
 * A connected client, made by `connect`.
 *
 * Every call that asks the cluster rejects with DisconnectedError or TimedOutError where no broker answers within `timeoutMs`; both are `retriable`. ClosedError: the client is
 * closed. TypeError: an argument is of another type than here; InvalidError: it is out of its range, or text with half of a surrogate pair. Both name it.
 */
export class Client {
  private constructor()
  /** What `connect` was called with. */
  readonly address: string
  /** A producer; it is opened by its first use. Without a topic each record names its own; all of them share the buffer. */
  producer(topic: string, options?: ProducerOptions): Producer
  /** The same without a topic. */
  producer(options?: ProducerOptions): Producer
  /**
   * A consumer of a topic, or of several, by name or by pattern; it is opened by its first use. A pattern begins with `^`, as in `'^flights-'`, and stands for the topics whose
   * names match it from their start on, those that come later included.
   */
  consumer(topics: string | readonly string[], options?: ConsumerOptions): Consumer
  // calls of lib/client.js, by declare.mjs:
  /** Makes a topic. AlreadyExistsError: there is one of that name; NotFoundError: there is no such partitioner; DeniedError: this client may not change the cluster. */
  createTopic(name: string, options?: TopicOptions): Promise<Topic>
  /**
   * Gives a topic more partitions: so many that it has `total`. Asked for as many as it has, nothing changes, so that the call may be repeated.
   *
   * Keys are placed among all partitions from then on: a key may go to another partition than before, and its order holds within each of them, as in Kafka.
   * What stands in the topic stays where it is. Producers and consumers follow without a restart; new partitions are read from their first records.
   *
   * InvalidError: it has more than `total`, or `total` is above 10,000; DisconnectedError: too few brokers can be reached within `timeoutMs`; NotFoundError; UnsupportedError: a broker is of an older version; DeniedError.
   */
  addPartitions(topic: string, total: number): Promise<Topic>
  /** Removes a topic and its records, for ever. NotFoundError, DeniedError. */
  deleteTopic(name: string): Promise<void>
  /** All topics, in the order of their names. */
  topics(): Promise<Topic[]>
  /** Offsets of a position by partition; 'latest' is the end (exclusive). Offsets are not dense: 'latest' less 'earliest' is no count of records. NotFoundError. */
  offsets(topic: string, at: Start): Promise<Map<number, number>>
  /** Uploads a module (bytes, or the path of a file) as the next version of `name`; the same module keeps its version. A broker that answers has a minute to try it. InvalidError: it is no plugin; DeniedError. */
  uploadPlugin(name: string, module: ArrayBufferView | ArrayBufferLike | string | URL): Promise<Plugin>
  /** All plugins in all versions. */
  plugins(): Promise<Plugin[]>
  /**
   * Places a topic's records in another way from now on; null: by key hash and in turn. What stands in it stays where it is. NotFoundError, DeniedError; InvalidError: `partitioner` is
   * empty, or there are parameters without one.
   */
  setPartitioner(topic: string, partitioner: string | null, partitionerConfig?: Data): Promise<void>
  /** All consumer groups. */
  groups(): Promise<GroupInfo[]>
  /** A group with its members and offsets. NotFoundError. */
  describeGroup(group: string): Promise<Group>
  /** Forgets a group without members, and how far it has come. NotFoundError; InvalidError: it has members. */
  deleteGroup(group: string): Promise<void>
  /**
   * Moves a group without members in all partitions of a topic, or in some; answers with the offset of each. With `dryRun` it only answers. A group that does not exist is made, and
   * begins there. NotFoundError: there is no such topic or partition; InvalidError: it has members, or `partitions` is empty.
   */
  resetGroup(group: string, topic: string, to: Start, options?: { partitions?: readonly number[] | undefined; dryRun?: boolean | undefined }): Promise<Map<number, number>>
  // By hand again.
  /** Closes the consumers that were made here, and lets the connection go; producers keep theirs until they are closed. Rejects with what an `onRebalance` throws. */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** A consumer group with its members and offsets. */
export interface Group {
  /** The group id. */
  group: string
  /** 'empty' has no members; 'reconciling' is moving partitions. */
  state: 'empty' | 'reconciling' | 'stable'
  /** Grows with each change of members or partitions. */
  epoch: number
  /** Number of the broker that coordinates it. */
  coordinator: number
  /** How its partitions are shared out. */
  assignor: 'uniform' | 'range'
  /** "name@version" of its filter; null: it has none. */
  filter: string | null
  /** Its members. */
  members: Array<{
    /** Its id, which its coordinator gave it. */
    member: string
    /** Its name that outlives the process, where it has one. */
    instance: string | null
    /** What its client calls itself. */
    client: string
    /** The address that it connects from. */
    host: string
    /** What it reads. */
    partitions: TopicPartition[]
    /** What it has been told to give up, and has not yet. */
    revoked: TopicPartition[]
    /** A static member that is not connected at the moment; its session has not ended. */
    isAway: boolean
  }>
  /** How far it has come, by topic and partition. */
  offsets: Array<{
    /** The topic. */
    topic: string
    /** The partition. */
    partition: number
    /** Next offset to be scanned; null: the group has not come here yet. */
    committed: number | null
    /** Records left to scan; null: the partition's only copy is damaged. */
    lag: number | null
    /** Records that its filter has dropped. */
    filtered: number
    /** Records on which its filter has failed. */
    failed: number
  }>
}

/** A record to send. */
export interface Message {
  /** Bytes and text as they are, an object or array as JSON; null is a tombstone. */
  value: Value
  /** Records of one key keep their partition and their order; without one, partitions take turns. */
  key?: Data | null | undefined
  /** Its headers. */
  headers?: Headers | undefined
  /** Milliseconds since the epoch, or a Date; the time of sending without it. */
  timestampMs?: number | Date | undefined
  /** Where it goes, whatever its key. InvalidError where the topic has a partitioner, which alone decides then. */
  partition?: number | undefined
  /** Where it goes, with a producer of any topic. */
  topic?: string | undefined
}

/** Where a record went. */
export interface Delivery {
  /** The partition that it went to. */
  partition: number
  /** null with acks 'none'. */
  offset: number | null
}

/**
 * Each call takes its record, and its place in line, before it returns, whether it is awaited or not: the order of calls is the order of records in
 * each partition. What is no data is refused with a TypeError that names the argument. It leaves at the end of the event loop's turn, or with a call that comes 5 ms later or more: what
 * long synchronous work follows leaves after that, or with its next call.
 */
export class Producer {
  private constructor()
  /** The topic; null where each record names its own. */
  readonly topic: string | null
  /** Finds the topic now, so that a missing one shows before the first send. */
  open(): Promise<this>
  /**
   * Sends a record; resolves when it is delivered. TypeError: it is no data; InvalidError: it is above a limit; ClosedError: the producer is closed; PluginFailedError: the topic's
   * partitioner fails on it; TimedOutError: no outcome within `deliveryTimeoutMs`.
   */
  send(value: Value, options?: Omit<Message, 'value'>): Promise<Delivery>
  /** Sends records; resolves with each one's outcome in order: the delivery, or the error of that record. */
  sendBatch(messages: readonly Message[]): Promise<Array<Delivery | ThalwegError>>
  /**
   * Buffers a record; waits only while the buffer is full. `onDelivery` is called with the delivery, or with the error; without it, an error is thrown by
   * the next `flush()` or `close()`.
   */
  enqueue(value: Value, options?: Omit<Message, 'value'> & { onDelivery?: ((outcome: Delivery | ThalwegError) => void) | undefined }): Promise<void>
  /** Buffers records together: the fast way in. */
  enqueueBatch(messages: readonly Message[]): Promise<void>
  /** Records that were sent, by whichever call, and have no outcome yet. */
  readonly pending: number
  /**
   * Resolves when every record that was sent before has its outcome; TimedOutError after `timeoutMs`, and then they are still on their way. Rejects with the error of a buffered
   * record that nobody took. Each `onDelivery` has been called by then, and each promise of a `send` has been settled: give those handlers before.
   */
  flush(options?: { timeoutMs?: number | undefined }): Promise<void>
  /** Refuses further records from now on; resolves when those that were sent before have their outcomes. Rejects as `flush` does. */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** What became of the records so far; without a filter all that can be read is delivered. */
export interface Counts {
  /** Records that have come here, without those on which the filter has failed. */
  delivered: number
  /** Records that the filter has dropped. */
  filtered: number
  /** Records on which the filter has failed; with onFilterFailure 'pass' they have come here too. */
  failed: number
  /** Records of batches that do not decode, passed over with onBadRecord 'skip'. */
  unreadable: number
  /** All of these. */
  scanned: number
}

/**
 * Reads records. A record is done when the next one is asked for, a batch when the next batch is; in a group, what is done is committed now and then, and
 * when the consumer is closed. What is in hand then is not done.
 */
export class Consumer implements AsyncIterable<ConsumerRecord> {
  private constructor()
  /** The topics that it reads. */
  readonly topics: string[]
  /** The topic, or the first of several. */
  readonly topic: string
  /** The group id; null without a group. */
  readonly group: string | null
  /** Opens the subscription: every partition's start has been resolved then, and what is sent from now on comes. */
  open(): Promise<this>
  /**
   * Records one by one. Whoever leaves the loop may come back: it goes on where it was. After an error of a partition: seek past it and loop again, or
   * close.
   *
   * In `pipeline(consumer, sink)` a `Writable` asks for 16 records ahead, and each is done when the next one is asked for: give the sink `highWaterMark: 1`, or let the last
   * stage be a function, `async (records) => { for await (const record of records) … }`. Behind a `Transform` or `Readable.from`: `autoCommitMs: null`, and
   * `commit(record)` in the sink.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<ConsumerRecord>
  /** Batches as they come: the fast way out. A batch that was begun record by record goes on with what is left of it. */
  batches(options?: { maxRecords?: number | undefined }): AsyncIterableIterator<Batch>
  /**
   * The next record; the one before it is done. null: nothing came within `timeoutMs`, or nothing more comes. `timeoutMs` counts from the call on, also where that opens the
   * consumer: opening goes on, and the next call waits for it. PluginFailedError: the filter fails on a record; BadRecordError: a stored batch does not decode;
   * OffsetOutOfRangeError: the log does not hold the position; NotFoundError: the topic was deleted; DamagedError: the only copy is damaged. Each comes again until a
   * `seek` past it. ClosedError: the consumer is closed; InvalidError: `onRebalance` calls it.
   */
  next(options?: { timeoutMs?: number | undefined }): Promise<ConsumerRecord | null>
  /** The next records that came together, at most `maxRecords`; what is left of a batch comes next. null as with `next`. */
  nextBatch(options?: { maxRecords?: number | undefined; timeoutMs?: number | undefined }): Promise<Batch | null>
  /**
   * Reads these topics from now on, instead of those that it read: by name, or by a pattern, which begins with `^`. What stays wanted goes on where it is. Without a group, records
   * that wait of topics that are not wanted any more are dropped, and new ones begin where `start` says; in a group their partitions are given up as in any rebalance. When it
   * resolves, the group's coordinator knows; without a group, every new start has been resolved. NotFoundError: a topic does not exist, unless `waitForTopics` is set;
   * InvalidError: what is no name and no pattern, and a consumer of chosen partitions or with `untilEnd`.
   */
  subscribe(topics: string | readonly string[]): Promise<void>
  /**
   * Moves a partition: `position` is where that is once it resolves. To be awaited before the next read, which may else hand out what was next. Records that wait are dropped. What is
   * passed over counts as done once a record behind it is: to store a group's new place at once, `commit([{ partition, offset }])`. NotFoundError: it is not read; a position that the log
   * does not hold is told by the next read.
   */
  seek(at: Place, to: Start): Promise<void>
  /** Hands out nothing of a partition from the next record on; to be awaited before that is asked for. What waits of it comes first when it is resumed. A rebalance forgets it. */
  pause(at: Place): Promise<void>
  /** Hands out records of a paused partition again. To be awaited, as `pause`. */
  resume(at: Place): Promise<void>
  /** Partitions that are paused. */
  paused(): Promise<TopicPartition[]>
  /** Next offset that has not been handed out, nor passed over by the filter; null before the broker has said where reading starts. NotFoundError: it is not read. */
  position(at: Place): Promise<number | null>
  /** Records that are left to hand out or to filter; null before the broker has said where the partition ends. NotFoundError: it is not read. */
  lag(at: Place): Promise<number | null>
  /** How far the group has come in a partition that this member reads; null: not yet at all. InvalidError: there is no group; NotFoundError: it is another's. */
  committed(at: Place): Promise<number | null>
  /** Partitions that are read at the moment; in a group, those that it has given to this member. */
  assignment(): Promise<TopicPartition[]>
  /**
   * Commits all that was handed out so far, what is in hand included, or what is before and with one record, or next offsets by partition.
   * RebalancedError: a partition is another member's by now; OffsetOutOfRangeError: an offset is past its end; InvalidError: there is no group; TimedOutError: the group's
   * coordinator does not answer.
   */
  commit(offsets?: ConsumerRecord | ReadonlyArray<{ topic?: string | undefined; partition: number; offset: number }>): Promise<void>
  /** Records scanned so far of the partitions that are read at the moment, or were when it was closed. */
  counts(): Promise<Counts>
  /**
   * Ends the subscription, and a loop that runs. What is in hand is not done, unless it is finished now: the body of a loop may end, for at most
   * `closeTimeoutMs`. Within the loop itself, use `break` before it. A loop around `next` is told null, once. In a group, whoever has a record of `next` in hand and asks for no
   * other is waited for too: `await using`, or `closeTimeoutMs: 0`, does without. `onRebalance` is told then what the member gives up, and may commit; what it throws is thrown here, after
   * the member has left. TimedOutError: the group's coordinator does not answer; the member counts as gone when its session ends.
   */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** All of a record, as an object of its own. */
export interface RecordObject {
  /** The topic that it was read from. */
  topic: string
  /** The partition that it stands in. */
  partition: number
  /** Its place in the partition. */
  offset: number
  /** When it was made, in milliseconds since 1970. */
  timestampMs: number
  /** The key; null: it has none. */
  key: Buffer | null
  /** null is a tombstone. */
  value: Buffer | null
  /** Its headers in order; a name may occur several times. */
  headers: Array<[string, Buffer | null]>
}

/**
 * A record as it was read; key, value and headers are made when they are asked for, each time anew. A record that is kept keeps the bytes of its batch, a key or value does not.
 *
 * What goes through an object's own properties sees where it stood, and no key, value or headers: `structuredClone`, `postMessage`, `{ ...record }`. `toObject()` has all of it.
 * `assert.deepStrictEqual` and the like take two records for equal that are the same one, of the same topic, or made by hand of the same parts: compare `toObject()` to know whether
 * they hold the same. `JSON.stringify` and `console.log` show everything.
 *
 * ```js
 * worker.postMessage(record.toObject())
 * assert.deepStrictEqual(record.toObject().value, Buffer.from('x'))
 * ```
 */
export class ConsumerRecord {
  private constructor()
  /** A record as it might have been read, for tests of what handles records. */
  static of(parts: {
    value?: Value | undefined
    key?: Data | null | undefined
    headers?: Headers | undefined
    topic?: string | undefined
    partition?: number | undefined
    offset?: number | undefined
    timestampMs?: number | undefined
  }): ConsumerRecord
  /** The topic that it was read from. */
  readonly topic: string
  /** The partition that it stands in. */
  readonly partition: number
  /** Its place in the partition. Offsets grow, and are not dense. */
  readonly offset: number
  /** When it was made, in milliseconds since 1970: what the producer said, or the time of sending. */
  readonly timestampMs: number
  /** The key; null: it has none. */
  get key(): Buffer | null
  /** null is a tombstone. */
  get value(): Buffer | null
  /** Its headers in order; a name may occur several times. */
  get headers(): Array<[string, Buffer | null]>
  /** The value as text; null for a tombstone. */
  text(): string | null
  /** The value as JSON; null for a tombstone. */
  json(): any
  /** All of it as an object of its own, to be cloned, posted to a worker, or compared. In a clone, Buffers are Uint8Arrays. */
  toObject(): RecordObject
  /** Bytes as text where they are text, else as `{ base64 }`. */
  toJSON(): unknown
}

/** Records of one partition that came together, sharing their bytes. */
export class Batch implements Iterable<ConsumerRecord> {
  private constructor()
  /** The topic. */
  readonly topic: string
  /** The partition that all of them stand in. */
  readonly partition: number
  /** The offset of each record. */
  readonly offsets: Float64Array
  /** The time of each record, in milliseconds since 1970. */
  readonly timestamps: Float64Array
  /** How many records it has. */
  get length(): number
  /** One record; negative numbers count from the end. */
  at(number: number): ConsumerRecord | undefined
  /**
   * All values: the fastest way to read everything. A value that is kept keeps 8 KiB of its neighbours at most, and is copied before it is transferred to another thread. With `copy: false` it keeps the whole batch, and nothing is copied:
   * that saves about a tenth of the time for whoever is done with them soon.
   */
  values(options?: { copy?: boolean | undefined }): Array<Buffer | null>
  /** The records; each shares the batch's bytes, and keeps them. */
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
  /** The partition that it is about. */
  readonly partition?: number | null
  /** The offset that it is about. */
  readonly offset?: number | null
  /** First offset that the log keeps. */
  readonly logStart?: number | null
  /** End of the log (exclusive). */
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
/** Nothing came back in time: try again or wait longer. A record may or may not be stored. */
export class TimedOutError extends ThalwegError {}
/** No broker could be reached: check address and network. */
export class DisconnectedError extends ThalwegError {}
/** The topic, partition, group or plugin does not exist: create it or mend the name. */
export class NotFoundError extends ThalwegError {}
/** Not allowed: certificate or permission. */
export class DeniedError extends ThalwegError {}
/** The request itself is wrong: fix it. */
export class InvalidError extends ThalwegError {}
/** Another owns this now: let a consumer go on, make a new producer. */
export class RebalancedError extends ThalwegError {}
/** A plugin failed on a record: fix the plugin or the record. */
export class PluginFailedError extends ThalwegError {}
/** The broker's disk or a published bound is full: free space or slow down. */
export class StorageFullError extends ThalwegError {}
/** Stored data is damaged and there is no other copy: the broker's operator puts it right. */
export class DamagedError extends ThalwegError {}
/** A broken invariant: report it. */
export class InternalError extends ThalwegError {}
/** This version cannot do it: upgrade. */
export class UnsupportedError extends ThalwegError {}
/** The log does not hold the position: seek to where it does. */
export class OffsetOutOfRangeError extends ThalwegError {}
/** What is stored there does not decode: seek past it, or read with onBadRecord 'skip'. */
export class BadRecordError extends ThalwegError {}
/** It is there already: use it, or take another name. */
export class AlreadyExistsError extends ThalwegError {}
/** The client, producer or consumer was closed: open another one. */
export class ClosedError extends ThalwegError {}
