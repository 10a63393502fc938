def handler(payload, context):
    name = payload.decode() or "world"
    print("greeting", name)
    return "Hello, %s, from Python!\n" % name
