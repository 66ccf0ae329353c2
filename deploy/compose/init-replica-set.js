// Run by mongosh in the container mongo-init: makes the replica set, if it is not there, and waits for
// its primary. To run it again changes nothing.
try {
  rs.status();
} catch (error) {
  if (error.codeName !== 'NotYetInitialized') throw error;
  rs.initiate({
    _id: 'rs0',
    members: ['mongo-1', 'mongo-2', 'mongo-3'].map((host, _id) => ({ _id, host: `${host}:27017` })),
  });
}
while (!rs.status().members.some((member) => member.stateStr === 'PRIMARY')) sleep(200);
print('replica set rs0 has a primary');
