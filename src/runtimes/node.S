/* The file itself becomes read-only data; the build gives the path, and rebuilds when it changes. */
    .section .rodata
    .global faaskit_node_runtime_begin
    .hidden faaskit_node_runtime_begin
    .type faaskit_node_runtime_begin, %object
faaskit_node_runtime_begin:
    .incbin FAASKIT_NODE_RUNTIME
    .global faaskit_node_runtime_end
    .hidden faaskit_node_runtime_end
    .type faaskit_node_runtime_end, %object
faaskit_node_runtime_end:
    .byte 0
    .size faaskit_node_runtime_begin, faaskit_node_runtime_end - faaskit_node_runtime_begin
    .size faaskit_node_runtime_end, 1
    .section .note.GNU-stack, "", %progbits
