/* The file itself becomes read-only data; the build gives the path, and rebuilds when it changes. */
    .section .rodata
    .global faaskit_python_runtime_begin
    .hidden faaskit_python_runtime_begin
    .type faaskit_python_runtime_begin, %object
faaskit_python_runtime_begin:
    .incbin FAASKIT_PYTHON_RUNTIME
    .global faaskit_python_runtime_end
    .hidden faaskit_python_runtime_end
    .type faaskit_python_runtime_end, %object
faaskit_python_runtime_end:
    .byte 0
    .size faaskit_python_runtime_begin, faaskit_python_runtime_end - faaskit_python_runtime_begin
    .size faaskit_python_runtime_end, 1
    .section .note.GNU-stack, "", %progbits
