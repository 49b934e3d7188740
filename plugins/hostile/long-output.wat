;; Answers with a list of 400,000 bytes that lies in its memory, so that only the host's own limit can refuse it.
(module
  (memory (export "memory") 16 1000)
  (global $next (mut i32) (i32.const 1024))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
    (global.set $next (i32.add (local.get $at) (local.get 3)))
    (block $fits
      (loop $grow
        (br_if $fits (i32.le_u (global.get $next) (i32.mul (memory.size) (i32.const 65536))))
        (br_if $grow (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))
        (unreachable)))
    (local.get $at))
  (func (export "init") (param i32 i32) (result i32)
    (i32.store (i32.const 16) (i32.const 0))
    (i32.const 16))

  (func (export "partition") (param $index i32) (param $length i32) (param $data i32) (param $bytes i32) (param $partitions i32) (result i32)
    (i32.store (i32.const 16) (i32.const 4096))
    (i32.store (i32.const 20) (i32.const 100000))
    (i32.const 16)))
