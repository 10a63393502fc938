"""An echo function, for rpc_bench."""


def handler(payload, context):
    context.reply_content_type = context.content_type
    return payload
