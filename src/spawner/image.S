/* The linked helper as read-only data; see helper.c. */
    .section .rodata
    .global faaskit_spawner_image_begin
    .hidden faaskit_spawner_image_begin
    .type faaskit_spawner_image_begin, %object
faaskit_spawner_image_begin:
    .incbin FAASKIT_SPAWNER_IMAGE
    .global faaskit_spawner_image_end
    .hidden faaskit_spawner_image_end
    .type faaskit_spawner_image_end, %object
faaskit_spawner_image_end:
    .byte 0
    .size faaskit_spawner_image_begin, faaskit_spawner_image_end - faaskit_spawner_image_begin
    .size faaskit_spawner_image_end, 1
    .section .note.GNU-stack, "", %progbits
