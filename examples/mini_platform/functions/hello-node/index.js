exports.handler = (payload, context) => {
  const name = payload.toString() || "world";
  console.log("greeting", name);
  return `Hello, ${name}, from Node!\n`;
};
