// Started in $HOME; the port is hob's choice.
const http = require('http');

const server = http.createServer((request, response) => {
  response.setHeader('Content-Type', 'text/plain');
  response.end(`hello from instance ${process.env.DOTCLOUD_SERVICE_ID}\n`);
});

server.listen(process.env.PORT_WWW, '0.0.0.0');

process.on('SIGTERM', () => {
  server.close();
  server.closeIdleConnections();
});
