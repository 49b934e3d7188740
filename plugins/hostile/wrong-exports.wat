;; A module of something else.
(module (func (export "main") (result i32) (i32.const 42)))
