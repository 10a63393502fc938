def handler(payload, context):
    return "hello, " + payload.decode()
